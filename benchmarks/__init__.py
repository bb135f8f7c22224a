"""Comparisons with peers; see `run.py`."""
