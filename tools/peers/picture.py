"""The pictures: every method and shape under the roofline, the sweep's curves, the profile."""

import io
import itertools

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from benchmarks.presets import FORMATS, PRESETS, SFT_METHODS, SWEEP_TOKENS
from benchmarks.roofline import PASSES, floating_point_operations, weight_bytes
from benchmarks.units import UNITS

from .sweep import fractions

# Told apart by people who see few colours, too (Okabe and Ito); the background is white in any
# case, so that a page in dark colours shows them all.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9", "#000000")
COLOURS = dict(zip(SFT_METHODS, itertools.cycle(PALETTE), strict=False))
GREY, INK = "#767676", "#222222"
MARKERS = "os^DvP"
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kt_kernel",  # the same numbers give the same file
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", facecolor="white", metadata={"Date": None})
    return text.getvalue()


def _caption(machine: dict) -> str:
    threads = f"{machine['threads']} threads"
    return f"{machine['cpu']}, {machine['isa']}, {threads}, {machine['date'][:10]}"


def _dot(**options) -> Line2D:
    return Line2D([], [], linestyle="none", **options)


def ceilings(limits: dict[str, float]) -> dict[str, float]:
    """Name and height of each limit of the arithmetic; those within 10% of a higher one join it."""
    heights = {products: limits[products] for products in UNITS}
    joined: dict[str, float] = {}
    for name, height in sorted(heights.items(), key=lambda item: -item[1]):
        near = next((other for other, top in joined.items() if height > 0.9 * top), None)
        if near is not None:
            joined[f"{near}, {name}"] = joined.pop(near)
        else:
            joined[name] = height
    return joined


def roofline_svg(results: dict) -> str:
    """Operations per second over operations per byte of weights, both axes logarithmic."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 6.4), layout="constrained")
        axes = figure.subplots()
        shapes = list(dict.fromkeys(cell["shape"] for cell in results["cells"]))
        markers = dict(zip(shapes, MARKERS, strict=False))
        right = _draw_points(axes, results["cells"], markers)
        _draw_limits(axes, results["limits"], right)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(PLAIN)
        axes.yaxis.set_major_formatter(PLAIN)
        axes.minorticks_off()
        axes.set_xlabel("operations per byte of weights that must be read")
        axes.set_ylabel("billion operations per second")
        axes.grid(which="major", color="#e4e4e4", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_title("Every method and shape under the machine's limits", loc="left", pad=24)
        axes.text(0, 1.02, _caption(results["machine"]), transform=axes.transAxes, color=GREY)
        handles = [_dot(marker="o", color=c, label=m) for m, c in COLOURS.items()]
        handles.append(_dot(marker="o", color=GREY, label="PyTorch, its best in bf16"))
        if any("kt" in cell for cell in results["cells"]):
            handles.append(_dot(marker="x", color=GREY, label="kt-kernel (+ with backward)"))
        handles.append(_dot(marker="o", color=INK, mfc="white", label="hollow: with backward"))
        handles += [_dot(marker=m, color=INK, label=shape) for shape, m in markers.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        return _svg(figure)


def _draw_points(axes, cells, markers):
    """All of them; returns the largest operations per byte."""
    right = 1.0

    def dot(who, cell, bytes_per_weight, seconds, colour, size, marker):
        nonlocal right
        shape, passes = PRESETS[cell["shape"]], cell["passes"]
        operations = floating_point_operations(shape, passes)
        x = operations / weight_bytes(shape, passes, bytes_per_weight)
        right = max(right, x)
        face = "white" if passes == PASSES[1] else colour
        style = {"marker": marker, "color": colour, "markerfacecolor": face, "markersize": size}
        style["gid"] = f"{who}-{cell['shape']}-{passes}"  # an id in the picture
        axes.plot([x], [operations / seconds / 1e9], linestyle="none", zorder=3, **style)

    for cell in cells:
        marker = markers[cell["shape"]]
        method = cell["method"]
        held, colour = FORMATS[method].bytes_per_weight, COLOURS[method]
        if method == SFT_METHODS[0]:
            bf16 = [seconds for name, seconds in cell["torch"].items() if name.endswith("bf16")]
            dot("PyTorch", cell, held, min(bf16), GREY, 6, marker)
        if "kt" in cell:
            cross = "x" if cell["passes"] == PASSES[0] else "+"
            dot(f"kt-kernel-{method}", cell, held, cell["kt"]["theirs"], colour, 6, cross)
        dot(method, cell, held, cell["seconds"], colour, 7.5, marker)
    return right


def _draw_limits(axes, limits, right):
    left, right = 2.0, 1.6 * right
    memory = limits["bandwidth"]
    tops = ceilings(limits)
    for name, top in tops.items():
        knee = top / memory
        axes.plot([knee, right], [top / 1e9] * 2, color=INK, linewidth=1.2)
        label = f"{name}\nproducts: {top / 1e9:,.0f}"
        axes.text(1.05 * right, top / 1e9, label, va="center", fontsize=9)  # beyond all points
    knee = max(tops.values()) / memory
    axes.plot([left, knee], [left * memory / 1e9, max(tops.values()) / 1e9], color=INK, lw=1.2)
    # To the left of the line, halfway up: nothing can lie there.
    label = f"memory: {memory / 1e9:.0f} GB/s "
    axes.text(0.47 * knee, 0.5 * knee * memory / 1e9, label, ha="right", va="bottom", fontsize=9)


def sweep_svg(results: dict) -> str:
    """Fraction of the roof over tokens per expert, forward beside both passes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.2), layout="constrained")
        panels = figure.subplots(1, len(PASSES), sharey=True)
        for axes, passes in zip(panels, PASSES, strict=True):
            for method, colour in COLOURS.items():
                line = fractions(results["sweep"], results["limits"], method, passes)
                axes.plot(*zip(*line, strict=True), marker="o", ms=4, color=colour, label=method)
            axes.set_xscale("log", base=2)
            labels = ["" if n == 48 else str(n) for n in SWEEP_TOKENS]  # too near to 64's
            axes.set_xticks(SWEEP_TOKENS, labels, fontsize=8)
            axes.minorticks_off()
            axes.set_ylim(0, 1.05)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
            axes.grid(color="#e4e4e4", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.set_title(passes, fontsize=10)
            axes.set_xlabel("tokens per expert")
        panels[0].set_ylabel("of the roof")
        figure.suptitle(_caption(results["machine"]), x=0.01, ha="left", color=GREY, fontsize=10)
        handles = panels[0].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        return _svg(figure)


def profile_svg(results: dict) -> str:
    """Where the threads' time goes: a bar for each method of each shape."""
    profiles = results["profile"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 1.2 + 0.3 * len(profiles)), layout="constrained")
        axes = figure.subplots()
        names = [f"{each['shape']} {each['method']}" for each in profiles]
        left = [0.0] * len(profiles)
        for kind, colour in zip(profiles[0]["shares"], itertools.cycle(PALETTE), strict=False):
            widths = [each["shares"][kind] for each in profiles]
            axes.barh(names, widths, left=left, color=colour, label=kind, height=0.7)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.set_xlabel("of the threads' time, forward and backward; the rest: off the cores")
        figure.suptitle(_caption(results["machine"]), x=0.01, ha="left", color=GREY, fontsize=10)
        figure.legend(loc="outside lower center", ncols=7, frameon=False)
        return _svg(figure)
