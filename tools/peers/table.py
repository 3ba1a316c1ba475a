"""The results as tables: every cell against the roof and its peers, and what stands beside them."""

from tabulate import tabulate

from benchmarks.presets import FORMATS, PRESETS, SFT_METHODS
from benchmarks.roofline import PASSES, roof_seconds

from .finding import Finding
from .targets import target

MISSED = " !"


def fraction(cell: dict, limits: dict[str, float]) -> float:
    """The roof's time over the cell's."""
    held = FORMATS[cell["method"]]
    shape = PRESETS[cell["shape"]]
    limit = limits[held.products], limits["bandwidth"]
    return roof_seconds(shape, cell["passes"], held, *limit) / cell["seconds"]


def times(ratio: float) -> str:
    """A peer's time over ours, marked where ours is the longer."""
    return f"{ratio:.2f}{MISSED if ratio < 1 else ''}"


def cells_table(results: dict) -> str:
    """A line for each cell. Ratios are the peer's time over ours in the same turns."""
    limits, kind = results["limits"], results["machine"]["kind"]
    torch_names = list(dict.fromkeys(name for cell in results["cells"] for name in cell["torch"]))
    rows = []
    for cell in results["cells"]:
        reached = fraction(cell, limits)
        wanted = target(kind, cell["shape"], cell["method"], cell["passes"])
        row = [cell["shape"], cell["passes"], cell["method"], f"{1e3 * cell['seconds']:.1f}"]
        row += [f"{reached:.2f}{MISSED if wanted and reached < wanted else ''}"]
        row += [f"{wanted:.2f}" if wanted else "-"]
        row += [times(cell["torch"][name] / cell["seconds"]) for name in torch_names]
        kt = cell.get("kt")
        rows.append([*row, times(kt["theirs"] / kt["ours"]) if kt else "-"])
    columns = ["shape", "passes", "method", "ms", "of roof", "target", *torch_names, "kt-kernel"]
    return _markdown(rows, columns, text=3)


def summary_table(results: dict) -> str:
    """A line for each shape and passes: ms and percent of the roof, then PyTorch's ms."""
    cells = {(c["shape"], c["passes"], c["method"]): c for c in results["cells"]}
    rows, torch_names = [], []
    for shape in dict.fromkeys(cell["shape"] for cell in results["cells"]):
        for passes in PASSES:
            row = [f"{shape}, {passes}"]
            for method in SFT_METHODS:
                cell = cells[shape, passes, method]
                ms, part = 1e3 * cell["seconds"], fraction(cell, results["limits"])
                row.append(f"{ms:,.0f} ({part:.0%})")
            torch_names = list(cell["torch"])
            rows.append([*row, *(f"{1e3 * cell['torch'][name]:,.0f}" for name in torch_names)])
    names = [method.removeprefix("AMX").removesuffix("_SFT") for method in SFT_METHODS]
    return _markdown(rows, ["ms (of the roof)", *names, *torch_names], text=1)


def findings_table(findings: list[dict]) -> str:
    """A line for each finding, marked where it misses its bar."""
    rows = []
    for each in (Finding(**fields) for fields in findings):
        bar = "-"
        if each.bar is not None:
            bar = f"{'at least' if each.at_least else 'at most'} {each.bar:g} {each.unit}"
        value = f"{each.value:.2f} {each.unit}{MISSED if each.missed else ''}"
        rows.append([each.subject, each.where, each.method, value, bar])
    return _markdown(rows, ["what", "where", "method", "measured", "bar"], text=3)


def profile_table(results: dict) -> str:
    """A line for each method and shape: where the threads' time went, in percent.

    `products at`: the share of the roof that the products alone reach while they run.
    """
    rows = []
    for profile in results["profile"]:
        shares, reached = profile["shares"], fraction(profile, results["limits"])
        row = [profile["shape"], profile["method"], f"{1e3 * profile['seconds']:.0f}"]
        row += [f"{reached:.0%}", f"{reached / shares['products']:.0%}"]
        row += [f"{share:.1%}" for share in shares.values()]
        rows.append([*row, f"{max(0.0, 1 - sum(shares.values())):.1%}"])
    columns = ["shape", "method", "ms", "of roof", "products at", *shares, "off the cores"]
    return _markdown(rows, columns, text=2)


def limits_line(limits: dict[str, float]) -> str:
    """The machine's own limits."""
    peaks = ", ".join(f"{n} {v / 1e9:,.0f}" for n, v in limits.items() if n != "bandwidth")
    return f"memory {limits['bandwidth'] / 1e9:.1f} GB/s; products in Gop/s: {peaks}"


def _markdown(rows, columns, text):
    align = ("left",) * text + ("right",) * (len(columns) - text)
    return tabulate(rows, columns, "github", disable_numparse=True, colalign=align)
