"""Façades for code that was written against other libraries."""
