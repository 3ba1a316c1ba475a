"""`python -m tools.review BASE`: what HEAD did to every row of rows.txt. docs/review.md explains.

Exit code 0: all fine, 1: precision worse, 2: slower or larger, 3: something was not measured, 4:
undecided. What goes wrong in the review itself is 3, too: Python's own code for a traceback is 1.
"""

import sys
import traceback

NOT_MEASURED = 3


def main() -> int:
    """The review's exit code, whatever happens."""
    try:
        from .command import review

        return review(sys.argv[1:])
    except SystemExit as stop:
        if stop.code in (0, None):
            return 0
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except Exception:
        traceback.print_exc()
    return NOT_MEASURED


if __name__ == "__main__":
    sys.exit(main())
