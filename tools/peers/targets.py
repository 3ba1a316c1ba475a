"""What each method must reach, as a fraction of the roof, by kind of machine.

On Zen 5 oneDNN's products of packed bf16 weights run at 84% of the peak and 90% of the memory's
bandwidth, and whole layers are asked for about as much; on Zen 4, whose vector units are half as
wide and wait for nothing, for more. Other machines have no such figures yet. Of each method, in the
order of SFT_METHODS: forward, and both passes.
"""

from benchmarks.presets import SFT_METHODS

_ZEN_5 = {
    "S1": ((0.74, 0.73), (0.60, 0.58), (0.55, 0.53), (0.52, 0.50)),
    "S2": ((0.91, 0.89), (0.89, 0.86), (0.81, 0.77), (0.79, 0.75)),
    "S3": ((0.84, 0.83), (0.73, 0.70), (0.67, 0.65), (0.63, 0.60)),
}
_ZEN_4 = {
    "S1": ((0.88, 0.86), (0.75, 0.72), (0.72, 0.70), (0.68, 0.66)),
    "S2": ((0.94, 0.92), (0.90, 0.88), (0.82, 0.78), (0.80, 0.76)),
    "S3": ((0.95, 0.93), (0.86, 0.84), (0.84, 0.82), (0.80, 0.78)),
}
TARGETS = {"Zen 5": _ZEN_5, "Zen 4": _ZEN_4}


def target(kind: str, shape: str, method: str, passes: str) -> float | None:
    """The fraction of the roof that is wanted, or None where there is no figure."""
    shapes = TARGETS.get(kind, {})
    if shape not in shapes:
        return None
    figures = dict(zip(SFT_METHODS, shapes[shape], strict=False))
    return figures[method][0 if passes == "forward" else 1] if method in figures else None
