"""Results of several machines in one place: merged by file, kept on a branch."""
