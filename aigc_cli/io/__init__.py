"""The outside world: everything that reads or writes a file."""
