"""`aigc train`."""
