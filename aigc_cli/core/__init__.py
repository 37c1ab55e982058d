"""Computes and returns values; never prints, never parses a command line."""
