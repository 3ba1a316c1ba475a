"""A clock that stands still but for what functions take."""


class FakeClock:
    """Called, it tells the seconds; `takes` makes functions that spend them."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def takes(self, name, seconds):
        """A function that takes so long and is noted in `calls`."""

        def spend():
            self.calls.append(name)
            self.now += seconds

        return spend
