"""HTML pages, plots and the format of numbers."""
