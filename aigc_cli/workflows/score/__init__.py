"""`aigc score`."""
