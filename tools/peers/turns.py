"""Times of several things that take turns: all meet the same slow moments of the machine."""

from collections.abc import Callable
from statistics import median
from time import perf_counter, sleep

from tools.progress import progress

# Between two calls: threads of PyTorch's pool look for work for about 20 ms after an operator,
# those of kt-kernel for 50, and whoever is timed meanwhile shares the cores with them.
PAUSE = 0.1
WARM_UP = 0.1
SLOW = 2.0


def take_turns(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    what: str,
    pause: float = PAUSE,
    seconds: float = 0,
) -> dict[str, list[float]]:
    """Times in seconds of each function: at least `rounds` of each, and for at least `seconds`.

    First each is called for WARM_UP seconds, once at least. Then all are called in turn, every
    second turn in reverse order. A function that returns a float has measured itself. One that took
    SLOW seconds is not called again: its one call is its sample. (PyTorch's bf16 products take
    minutes on CPUs without bf16 instructions.)
    """

    def measured(function):
        start = perf_counter()
        own = function()
        whole = perf_counter() - start
        sleep(pause)
        return own if isinstance(own, float) else whole

    times: dict[str, list[float]] = {name: [] for name in functions}
    with progress((rounds + 1) * len(functions), what) as bar:
        for name, function in functions.items():
            end = perf_counter() + WARM_UP
            times[name].append(measured(function))
            while perf_counter() < end:
                function()
            bar.update()
        again = [name for name, (first,) in times.items() if first < SLOW]
        for name in again:
            times[name].clear()
        bar.total = len(functions) + rounds * len(again)
        end = perf_counter() + seconds
        turn = 0
        while again and (turn < rounds or perf_counter() < end):
            for name in again if turn % 2 == 0 else reversed(again):
                times[name].append(measured(functions[name]))
                bar.update()
            turn += 1
    return times


def ratio(above: list[float], below: list[float]) -> float:
    """How many times as long: the median of the turns' own ratios, whatever a slow minute falls on.

    Of the medians, where one was slow and called once.
    """
    if len(above) != len(below):
        return median(above) / median(below)
    return median(a / b for a, b in zip(above, below, strict=True))
