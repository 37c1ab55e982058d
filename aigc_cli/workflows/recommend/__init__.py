"""`aigc recommend`."""
