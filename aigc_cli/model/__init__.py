"""Backbones, heads, and the model that they make."""
