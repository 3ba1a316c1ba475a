"""The review's text: verdict first, worst row first, what is fine folded away."""

from tools.review import names, report
from tools.review.judge import NO_VERDICT, Judged
from tools.review.outcome import Outcome, failed
from tools.verdict import FINE, NOT_MEASURED, UNDECIDED, WORSE, Verdict

ERROR = "relative_error.RelativeError.track_output('{}', 'S1')"
TIME = "review.Speed.time_forward('{}', 'quick-compute')"
COUNT = "review.Instructions.count_load('{}', 'tiny-memory')"


def row(whole, state, change=0.0, why="", base=1.0, head=1.0, method="AMXINT8_SFT", floor=0.0):
    sides = [Outcome(v) if isinstance(v, float) else failed("") for v in (base, head)]
    return Judged(names.parse(whole.format(method)), *sides, Verdict(state, why, change, floor))


def text(rows, **options):
    options = {"notes": []} | options
    return report.markdown(report.Report("abc (head)", "def (base)", "a CPU", rows, **options))


def test_the_verdict_comes_first_and_names_all_that_is_wrong():
    rows = [
        row(ERROR, FINE),
        row(ERROR, WORSE),
        row(COUNT, WORSE),
        row(TIME, NOT_MEASURED),
        row(TIME, UNDECIDED),
        row(TIME, UNDECIDED),
    ]
    first, _, second = text(rows).split("\n")[:3]
    assert first == (
        "**1 row less precise, 1 row more instructions, 1 row not measured, 2 rows undecided, "
        "1 row fine.**"
    )
    assert second == "abc (head), against def (base), on a CPU."
    assert text([row(ERROR, FINE)] * 3).startswith("**3 rows fine.**")
    assert text([row(TIME, NO_VERDICT)] * 2).startswith("**2 rows without a verdict.**")
    assert text([]).startswith("**Nothing was measured.**")


def lines(rows, start="| "):
    return [line for line in text(rows).split("\n") if line.startswith(start)][1:]


def test_the_worst_row_comes_first():
    rows = [
        row(ERROR, FINE, 0.001),
        row(ERROR, WORSE, 0.02),
        row(ERROR, UNDECIDED, 0.5),
        row(ERROR, NOT_MEASURED, None, "gone", head=None),
        row(ERROR, WORSE, 0.3),
        row(ERROR, FINE, 0.004),
    ]
    shown = [[cell.strip() for cell in line.split("|")[4:7:2]] for line in lines(rows)]
    assert shown == [
        ["1.3000", "**worse**"],
        ["1.0200", "**worse**"],
        ["", "**not measured**: gone"],
        ["1.5000", "**undecided**"],
        ["1.0040", "fine"],
        ["1.0010", "fine"],
    ]


def test_a_line_has_before_after_ratio_noise_and_verdict():
    (line,) = lines([row(TIME, WORSE, 0.105, "", 2e-3, 2.21e-3, floor=0.021)])
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "Speed.time_forward AMXINT8_SFT quick-compute",
        "2.00ms",
        "2.21ms",
        "1.105",
        "±2.10%",
        "**worse**",
    ]
    (line,) = lines([row(COUNT, FINE, 0.0, "", 25337949.0, 25338132.0)])
    assert "| 25,337,949 | 25,338,132 | 1.0000 | exact | fine" in " ".join(line.split())
    (line,) = lines([row(ERROR, WORSE, 0.02, "over its ceiling of 1.8 %", 1.79, 1.81)])
    assert "| 1.79 % | 1.81 % |" in " ".join(line.split())
    assert "**worse**: over its ceiling of 1.8 %" in line


def test_a_long_table_folds_what_is_fine():
    rows = [row(ERROR, FINE) for _ in range(20)]
    folded = text([*rows, row(ERROR, WORSE, 0.2)])
    open_part, hidden = folded.split("<details>\n<summary>20 more</summary>\n")
    assert "**worse**" in open_part
    assert "fine |" not in open_part.split("###")[1].split("\n", 1)[1]
    assert hidden.count("fine") == 20
    assert "<summary>all 20</summary>" in text(rows)
    assert "<details>" not in text(rows[:10])


def test_what_an_exception_says_stays_in_its_cell():
    (line,) = lines([row(ERROR, NOT_MEASURED, None, "Error: a | b\nc", head=None)])
    assert "Error: a \\| b c" in line


def test_notes_and_a_builds_log():
    shown = text([], notes=["one", "two"], log="error: no ;")
    assert "- one\n- two" in shown
    assert "```\nerror: no ;\n```" in shown
