"""Intervals, percentiles and out-of-domain shares."""
