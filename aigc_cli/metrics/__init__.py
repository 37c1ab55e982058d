"""Metrics of the agreement between predictions and human scores."""
