"""`aigc ablate`."""
