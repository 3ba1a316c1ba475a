"""What AMX's products compute, in Python's integers: nothing is rounded but where it is said."""

from itertools import product

import numpy as np

UNIT = 298  # sums are counted in units of 2**-298: a product of two denormals of float32
NAN, INFINITY = 0x7FC00000, 0x7F800000


def exact(bits):
    """A float32 in units of 2**-149; denormals are zero."""
    exponent = bits >> 23 & 0xFF
    size = 0 if exponent == 0 else (bits & 0x7FFFFF | 0x800000) << exponent - 1
    return -size if bits >> 31 else size


def rounded(value):
    """Units to the nearest float32, ties to even; what is below the normal numbers then is zero."""
    sign, size = (1 << 31 if value < 0 else 0), abs(value)
    shift = max(size.bit_length() - 24, 0)
    half, rest = 1 << shift >> 1, size & (1 << shift) - 1
    size >>= shift
    size += rest > half or (rest == half != 0 and size & 1)
    exponent = shift + size.bit_length() - 1 - UNIT
    if size == 0 or exponent < -126:
        return sign
    if exponent > 127:
        return sign | INFINITY
    mantissa = size << 24 >> size.bit_length()  # 24 bits, or a power of two that has grown
    return sign | exponent + 127 << 23 | mantissa & 0x7FFFFF


def multiply_add(x, y, z):
    """x * y + z of float32 bits, rounded once."""
    if any(bits & 0x7FFFFFFF > INFINITY for bits in (x, y, z)):
        return NAN
    sign = (x ^ y) & 1 << 31
    if INFINITY in (x & 0x7FFFFFFF, y & 0x7FFFFFFF):
        if exact(x) == 0 or exact(y) == 0 or z == (sign ^ 1 << 31 | INFINITY):
            return NAN
        return sign | INFINITY
    if z & 0x7FFFFFFF == INFINITY:
        return z
    total = exact(x) * exact(y) + (exact(z) << UNIT - 149)
    if total == 0:
        return sign & z if exact(x) * exact(y) == 0 == exact(z) else 0
    return rounded(total)


def add(x, y):
    return multiply_add(0x3F800000, x, y)


def dot_bf16(c, a, b):
    """A [m, 2 k] and B [k, 2 n], bits of bfloat16, to C [m, n], bits of float32."""
    c = c.astype(object)
    for m, n in np.ndindex(c.shape):
        sums = [0, 0]
        for k, i in product(range(len(b)), range(2)):
            x, y = int(a[m, 2 * k + i]), int(b[k, 2 * n + i])
            sums[i] = multiply_add(x << 16, y << 16, sums[i])
        c[m, n] = add(c[m, n], add(*sums))
    return c.astype(np.uint32)


def dot_bytes(c, a, b):
    """A [m, 4 k] and B [k, 4 n], bytes with or without a sign, to C [m, n], which wraps."""
    k, n = len(b), b.shape[1] // 4
    columns = b.reshape(k, n, 4).transpose(0, 2, 1).reshape(4 * k, n)
    total = c.astype(np.int64) + a.astype(np.int64) @ columns.astype(np.int64)
    return (total & 0xFFFFFFFF).astype(np.uint32)
