"""Times of several things that take turns: all meet the same slow moments of the machine."""

from collections.abc import Callable
from time import perf_counter, sleep

from benchmarks.timing import clock
from tools.progress import progress

# Between two calls: threads of PyTorch's pool look for work for about 20 ms after an operator,
# those of kt-kernel for 50, and whoever is timed meanwhile shares the cores with them.
PAUSE = 0.1
WARM_UP = 0.1


def take_turns(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    what: str,
    pause: float = PAUSE,
    seconds: float = 0,
) -> dict[str, list[float]]:
    """Times in seconds of each function: at least `rounds` of each, and for at least `seconds`.

    First each is called for WARM_UP seconds, once at least. Then all are called in turn, every
    second turn in reverse order. A function that returns a float has measured itself.
    """

    def measured(function):
        start = perf_counter()
        own = function()
        whole = perf_counter() - start
        sleep(pause)
        return own if isinstance(own, float) else whole

    times: dict[str, list[float]] = {name: [] for name in functions}
    with progress((rounds + 1) * len(functions), what) as bar:
        for function in functions.values():
            spent = clock(function)
            while spent < WARM_UP:
                spent += clock(function)
            bar.update()
        sleep(pause)
        end = perf_counter() + seconds
        turn = 0
        while turn < rounds or perf_counter() < end:
            for name in times if turn % 2 == 0 else reversed(times):
                times[name].append(measured(functions[name]))
                bar.update()
            turn += 1
    return times
