"""What stands behind `python -m tools.review BASE`: a commit held against another, row by row."""
