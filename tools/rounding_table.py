"""Prints the tables of docs/rounding.md: `python -m tools.rounding_table`.

What rounding costs, on random numbers from a seed: weights by the extension's own kernels, and
activations in numpy. Errors are mean|a - b| / mean|b| in percent.
"""

import numpy as np

from kt_kernel._native import ext

ROWS, COLUMNS, TOKENS = 256, 2048, 256
FORMATS = {
    "INT8": ("int8", -127, 127, COLUMNS),
    "INT4": ("int4", -8, 7, COLUMNS),
    "KGroup 128": ("int4_kgroup", -8, 7, 128),
    "KGroup 64": ("int4_kgroup", -8, 7, 64),
    "KGroup 32": ("int4_kgroup", -8, 7, 32),
}
GRANULES = (128, 64, 32, 16)


def error(actual, wanted):
    """Of all elements together, in percent."""
    return 100 * abs(actual - wanted).mean() / abs(wanted).mean()


def kinds_of_weights(rng):
    """Float32 [rows, columns] by name."""
    normal = rng.standard_normal((ROWS, COLUMNS))
    rows, columns = rng.random((ROWS, 1)) < 1 / 64, rng.random((1, COLUMNS)) < 1 / 64
    return {
        "normal": normal,
        "Student t, 4 degrees": rng.standard_t(4, (ROWS, COLUMNS)),
        "1 row in 64 x 20": np.where(rows, 20, 1) * normal,
        "1 column in 64 x 20": np.where(columns, 20, 1) * normal,
    }


def by_largest(weights, low, high, group):
    """Rounded with the scale at which the largest weight of a group gets the lowest code."""
    groups = weights.reshape(-1, group)
    largest = np.take_along_axis(groups, abs(groups).argmax(1)[:, None], 1)
    scales = largest / low
    return (np.clip(np.rint(groups / scales), low, high) * scales).reshape(weights.shape)


def along_rows(form, weights, group):
    """The weights as the backward pass has them: read by rows of zeros with a single one."""
    ones = (np.eye(ROWS, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    pieces = []
    for first in range(0, COLUMNS, 256):
        piece, _ = ext._ops.product("", form, "n", ones, weights, first, first + 256, group)
        pieces.append(piece)
    return np.concatenate(pieces, axis=1)


def print_weights(rng):
    """How the scale is chosen, and what codes of 8 bits add along n."""
    x = rng.standard_normal((TOKENS, COLUMNS))
    print("| weights | format | largest: weights | output | least squares: weights | output | |")
    print("|---|---|---|---|---|---|---|")
    for kind, values in kinds_of_weights(rng).items():
        weights = values.astype(np.float32)
        output = x @ weights.T
        for name, (form, low, high, group) in FORMATS.items():
            asked = min(group, 128)
            held = ext._ops.roundtrip("", form, weights, asked)
            found = []
            for rounded in (by_largest(weights, low, high, group), held):
                found += [error(rounded, weights), error(x @ rounded.T, output)]
            told = " | ".join(f"{each:.2f}" for each in found)
            again = ""
            if group < COLUMNS:
                again = f"{error(along_rows(form, weights, asked), held):.2f}"
            print(f"| {kind} | {name} | {told} | {again} |")


def kinds_of_activations(rng):
    """[tokens, columns] by name; G, U and dH are normal."""
    x, g, u, dh = rng.standard_normal((4, TOKENS, COLUMNS))
    sigmoid = 1 / (1 + np.exp(-g))
    return {
        "X, dOut": x,
        "H": g * sigmoid * u,
        "dG": dh * u * sigmoid * (1 + g * (1 - sigmoid)),
        "dU": dh * g * sigmoid,
    }


def print_activations(rng):
    """How many columns share a scale: the error of a product with normal weights."""
    weights = rng.standard_normal((COLUMNS, ROWS))
    print("| product with | " + " | ".join(f"{granule} columns" for granule in GRANULES) + " |")
    print("|---|" + "---|" * len(GRANULES))
    for name, values in kinds_of_activations(rng).items():
        found = []
        for granule in GRANULES:
            groups = values.reshape(-1, granule)
            step = abs(groups).max(1, keepdims=True) / 127
            rounded = (np.rint(groups / step) * step).reshape(values.shape)
            found.append(error(rounded @ weights, values @ weights))
        print(f"| {name} | " + " | ".join(f"{each:.2f}" for each in found) + " |")


def main():
    """Print both."""
    rng = np.random.default_rng(0)
    print_weights(rng)
    print()
    print_activations(rng)


if __name__ == "__main__":
    main()
