"""`aigc score` and the Python `Scorer`."""
