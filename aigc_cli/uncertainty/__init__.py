"""Intervals, percentiles, out-of-domain shares and the correction of consistency."""
