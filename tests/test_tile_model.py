"""The software model of AMX's tile unit, instruction by instruction: against definitions in plain
integers (plain_tiles.py), and against the CPU where it has the unit."""

from itertools import product

import numpy as np
import pytest
from plain_tiles import INFINITY, NAN, dot_bf16, dot_bytes

from kt_kernel._native import ext

tiles = ext._tiles
MISSING = tiles.missing()  # for instructions of the CPU's own unit; "" if nothing is


def config(*shapes):
    """What LDTILECFG reads for tiles of these rows and bytes per row."""
    memory = np.zeros(64, np.uint8)
    memory[0] = 1
    memory[48 : 48 + len(shapes)] = [rows for rows, _ in shapes]
    memory[16:32].view(np.uint16)[: len(shapes)] = [columns for _, columns in shapes]
    return memory


def run(memory, *steps):
    """The memory after the steps on the model; the CPU, where it can, must say the same."""
    model, cpu = tiles.run(memory, list(steps), native=not MISSING)
    if cpu is not None:
        np.testing.assert_array_equal(without_payloads(cpu), without_payloads(model))
    return model


def without_payloads(memory):
    """Bytes with every float32 NaN made the same. (Integers that look so in both are the same.)"""
    words = memory[: len(memory) // 4 * 4].view(np.uint32).copy()
    words[(words & 0x7FFFFFFF) > INFINITY] = NAN
    return words


def product_of(name, c, a, b):
    """C after one product, dwords; the operands lie in memory with gaps between their rows."""
    operands = [c, a, b]
    shapes = [(len(x), x.shape[1] * x.itemsize) for x in operands]
    pad, offset = 24, 64
    memory, steps, places = [config(*shapes)], [("ldtilecfg",)], []
    for tile, x in enumerate(operands):
        stride = shapes[tile][1] + pad
        block = np.full((len(x), stride), 0xA5, np.uint8)
        block[:, :-pad] = x.view(np.uint8)
        memory.append(block.ravel())
        steps.append(("tileloadd", tile, offset, stride))
        places.append((offset, stride))
        offset += block.size
    offset, stride = places[0]
    after = run(np.concatenate(memory), *steps, (name, 0, 1, 2), ("tilestored", 0, offset, stride))
    result = after[offset : offset + len(c) * stride].reshape(len(c), stride)
    assert (result[:, -pad:] == 0xA5).all()
    assert (after[offset + result.size :] == np.concatenate(memory[2:])).all()
    return np.ascontiguousarray(result[:, :-pad]).view(np.uint32)


def assert_same_floats(actual, expected):
    np.testing.assert_array_equal(without_payloads(actual.ravel().view(np.uint8)), expected.ravel())


SHAPES = [(16, 16, 16), (1, 1, 1), (13, 5, 7), (3, 16, 8), (16, 1, 12), (1, 16, 16), (7, 9, 1)]
shapes = pytest.mark.parametrize(("m", "n", "k"), SHAPES, ids=lambda size: str(size))


def bf16(rng, low, high, *shape):
    """Bits of bfloat16 with exponents in [low, high), all of them evenly: 0 is zero and the
    denormals, 127 stands for 1, 255 is NaN and infinities."""
    sign, fraction = rng.integers(0, 2, shape), rng.integers(0, 128, shape)
    return (sign << 15 | rng.integers(low, high, shape) << 7 | fraction).astype(np.uint16)


def float32(rng, low, high, *shape):
    return bf16(rng, low, high, *shape).astype(np.uint32) << 16 | rng.integers(
        0, 1 << 16, shape, np.uint32
    )


@shapes
@pytest.mark.parametrize(
    ("operands", "sums"),
    [
        ((120, 130), (120, 130)),  # sums of like magnitudes: every bit counts
        ((50, 200), (1, 254)),
        ((0, 255), (0, 255)),  # overflow and underflow, denormals
        ((0, 256), (0, 256)),  # NaN, infinities
        ((0, 3), (0, 3)),  # denormals and the smallest normals; products far below
        ((58, 70), (0, 4)),  # products about the smallest normal
        ((188, 193), (250, 255)),  # about the largest
    ],
    ids=["alike", "wide", "finite", "any", "small", "tiny_sums", "overflow"],
)
def test_tdpbf16ps(m, n, k, operands, sums):
    rng = np.random.default_rng([m, n, k, *operands])
    c = float32(rng, *sums, m, n)
    a, b = bf16(rng, *operands, m, 2 * k), bf16(rng, *operands, k, 2 * n)
    assert_same_floats(product_of("tdpbf16ps", c, a, b), dot_bf16(c, a, b))


SPECIAL = [0, 1, 0x7F, 0x80, 0x3F80, 0x3F81, 0x7F7F, 0x7F80, 0x7F81, 0x7FC0]  # and all negated


@pytest.mark.parametrize("addend", [0, 1, 0x00800000, 0x3F800000, 0x7F7FFFFF, INFINITY, NAN])
@pytest.mark.parametrize("sign", [0, 1 << 31], ids=["plus", "minus"])
def test_tdpbf16ps_of_special_values(addend, sign):
    """Zero, denormals, the smallest normal, 1, the next, the largest, infinity, NaN: all pairs."""
    values = np.array([x | s for s in (0, 0x8000) for x in SPECIAL], np.uint16)
    for left, other in product((values[:10], values[10:]), repeat=2):
        a, b = np.zeros((10, 2), np.uint16), np.zeros((1, 20), np.uint16)
        a[:, 0], b[0, ::2] = left, other
        c = np.full((10, 10), sign | addend, np.uint32)
        assert_same_floats(product_of("tdpbf16ps", c, a, b), dot_bf16(c, a, b))


@pytest.mark.parametrize("sign", [0, 0x8000], ids=["plus", "minus"])
def test_tdpbf16ps_flushes_after_rounding(sign):
    """2**-126, the smallest normal, less ever smaller powers of two: 2**-150 is the last bit of 24
    below it, and half of that a tie."""
    power = lambda exponent: 127 + exponent << 7  # noqa: E731
    less = np.arange(-149, -180, -1)
    a = np.array([[power(-63), 0, power(-64) | 0x8000, 0]], np.uint16) ^ sign
    for columns in np.split(np.arange(len(less)), [16]):
        b = np.zeros((2, 2 * len(columns)), np.uint16)
        b[0, ::2], b[1, ::2] = power(-63), power(less[columns] + 64)
        c = np.zeros((1, len(columns)), np.uint32)
        expected = np.where(less[columns] >= -150, 0, 0x00800000 | sign << 16)[None]
        assert_same_floats(dot_bf16(c, a, b), expected)
        assert_same_floats(product_of("tdpbf16ps", c, a, b), expected)


BYTES = {
    "tdpbssd": (np.int8, np.int8),
    "tdpbsud": (np.int8, np.uint8),
    "tdpbusd": (np.uint8, np.int8),
    "tdpbuud": (np.uint8, np.uint8),
}


@shapes
@pytest.mark.parametrize("name", BYTES)
def test_products_of_bytes(name, m, n, k):
    rng = np.random.default_rng([m, n, k])
    every = lambda dtype, *shape: rng.integers(0, 256, shape, np.uint8).view(dtype)  # noqa: E731
    left, right = BYTES[name]
    a, b = every(left, m, 4 * k), every(right, k, 4 * n)
    c = rng.integers(0, 1 << 32, (m, n), np.uint32)
    np.testing.assert_array_equal(product_of(name, c, a, b), dot_bytes(c, a, b))


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("start", [0x7FFFFFFF, 0x80000000])
def test_products_of_the_largest_bytes_wrap(name, start):
    left, right = BYTES[name]
    for x, y in product((0x7F, 0x80, 0xFF), repeat=2):
        a, b = np.full((16, 64), x, np.uint8).view(left), np.full((16, 64), y, np.uint8).view(right)
        c = np.full((16, 16), start, np.uint32)
        np.testing.assert_array_equal(product_of(name, c, a, b), dot_bytes(c, a, b))


@pytest.mark.parametrize(("rows", "columns"), [(16, 64), (1, 4), (11, 20)])
@pytest.mark.parametrize(("load", "store"), [(64, 64), (96, 64), (64, 100), (0, 68), (-64, 64)])
def test_loads_and_stores_by_strides(rows, columns, load, store):
    source = np.random.default_rng(rows).integers(1, 256, 16 * 96, np.uint8)
    place = np.full(16 * 100, 0xA5, np.uint8)
    memory = np.concatenate([config((rows, columns)), source, place])
    first = 15 * 64 if load < 0 else 0
    after = run(
        memory,
        ("ldtilecfg",),
        ("tileloadd", 0, 64 + first, load),
        ("tilestored", 0, 64 + len(source), store),
    )
    for i in range(rows):
        place[i * store : i * store + columns] = source[first + i * load :][:columns]
    np.testing.assert_array_equal(after, [*memory[: 64 + len(source)], *place])


FULL = config((16, 64), (3, 8))
CLEARING = {
    "tilezero": [("tilezero", 0)],
    "ldtilecfg": [("ldtilecfg",)],
    "tilerelease": [("tilerelease",), ("ldtilecfg",)],
}


@pytest.mark.parametrize("name", [None, *CLEARING])
def test_what_clears_a_tile(name):
    data = np.arange(1024) % 255 + 1
    memory = np.concatenate([FULL, data]).astype(np.uint8)
    load, store = ("tileloadd", 0, 64, 64), ("tilestored", 0, 64, 64)
    after = run(memory, ("ldtilecfg",), load, *CLEARING.get(name, []), store)
    assert (after[64:] == (data if name is None else 0)).all()


def test_zeroing_leaves_the_other_tiles():
    memory = np.concatenate([FULL, np.arange(1, 25), np.zeros(24)]).astype(np.uint8)
    steps = ("ldtilecfg",), ("tileloadd", 1, 64, 8), ("tilezero", 0), ("tilestored", 1, 88, 8)
    after = run(memory, *steps)
    np.testing.assert_array_equal(after[88:], after[64:88])


def faulty(place, value):
    memory = FULL.copy()
    memory[place] = value
    return memory


@pytest.mark.parametrize(
    ("memory", "why"),
    [
        (faulty(0, 2), "#GP: no such palette"),
        (faulty(2, 1), "#GP: a reserved byte"),
        (faulty(32, 4), "#GP: a reserved byte"),
        (faulty(56, 1), "#GP: a reserved byte"),
        (faulty(48, 17), "#GP: tile too large"),
        (faulty(16, 68), "#GP: tile too large"),
        (faulty(17, 1), "#GP: tile too large"),  # 320 bytes
        (faulty(50, 1), "#GP: rows or colsb alone is 0"),
        (faulty(20, 4), "#GP: rows or colsb alone is 0"),
    ],
)
def test_wrong_configurations_are_refused(memory, why):
    with pytest.raises(RuntimeError, match=f"LDTILECFG: {why}"):
        tiles.run(memory, [("ldtilecfg",)])


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([("tilezero", 0)], "TILEZERO: #UD: the tiles are not configured"),
        ([("ldtilecfg",), ("tilerelease",), ("tilezero", 0)], "the tiles are not configured"),
        ([("ldtilecfg",), ("tilezero", 2)], "the tile is not configured"),
        ([("ldtilecfg",), ("tilezero", 8)], "no such tile"),
        ([("ldtilecfg",), ("tileloadd", 2, 0, 0)], "#UD: the tile is not configured"),
    ],
)
def test_instructions_without_their_tiles_are_refused(steps, why):
    with pytest.raises(RuntimeError, match=why):
        tiles.run(FULL, steps)


@pytest.mark.parametrize("name", ["tileloadd", "tilestored"])
def test_rows_are_whole_dwords(name):
    with pytest.raises(RuntimeError, match=r"(?i:tile)\w+: #UD: colsb is no multiple of 4"):
        tiles.run(config((16, 62)), [("ldtilecfg",), (name, 0, 0, 0)])


@pytest.mark.parametrize(
    ("shapes", "operands", "why"),
    [
        ([(16, 64)] * 3, (0, 1, 1), "a tile comes twice"),
        ([(16, 64)] * 3, (0, 0, 1), "a tile comes twice"),
        ([(16, 64)] * 3, (0, 1, 0), "a tile comes twice"),
        ([(16, 64), (15, 64), (16, 64)], (0, 1, 2), "the shapes do not fit"),
        ([(16, 64), (16, 60), (16, 64)], (0, 1, 2), "the shapes do not fit"),
        ([(16, 64), (16, 64), (16, 60)], (0, 1, 2), "the shapes do not fit"),
        ([(16, 62), (16, 64), (16, 62)], (0, 1, 2), "colsb is no multiple of 4"),
        ([(16, 64), (16, 64)], (0, 1, 2), "the tile is not configured"),
    ],
)
@pytest.mark.parametrize("name", ["tdpbf16ps", *BYTES])
def test_products_of_tiles_that_do_not_fit_are_refused(name, shapes, operands, why):
    with pytest.raises(RuntimeError, match=f"{name.upper()}: #UD: {why}"):
        tiles.run(config(*shapes), [("ldtilecfg",), (name, *operands)])


def test_the_model_is_what_the_cpu_computes():
    """`run` above compares the two; this says when it did not."""
    if MISSING:
        pytest.skip(f"no tile unit to compare the model with: {MISSING}")
    _, cpu = tiles.run(FULL, [("ldtilecfg",), ("tilezero", 0)], native=True)
    assert cpu is not None


def test_amx_leaves_the_unit_released():
    """Other libraries bring their own configuration, and a process switch saves less."""
    amx = next(isa for isa in ext.isas() if isa["name"] == "amx")
    if not amx["supported"]:
        pytest.skip(f"amx cannot run here: {amx['why']}")
    a, weights = np.zeros((20, 48), np.uint16), np.zeros((20, 48), np.float32)
    ext._ops.product("amx", "bf16", "k", a, weights, 0, 20)
    assert tiles.palette() == 0
