"""Reads and writes files: atomic writes, folder locks, tables, tensors. Nothing is ever unpickled."""
