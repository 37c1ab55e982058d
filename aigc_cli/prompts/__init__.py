"""Prompts and settings that image generators write into images."""
