"""Backbones, heads, and the model of both."""
