"""One file or folder per command, and `experiment` for what several commands share; every one has a typed function."""
