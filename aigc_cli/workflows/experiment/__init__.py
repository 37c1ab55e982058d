"""Shared by several workflows: rated images, folds and predictions."""
