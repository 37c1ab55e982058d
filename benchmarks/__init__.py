"""What aigc costs, as ratios to the loops it replaces and to the machine's own limits."""
