"""Stated probabilities beside observed frequencies: scores and labels checked, sorted into bins, measured, drawn."""
