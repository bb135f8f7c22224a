"""Compiled tiers of `solve`: the step, or the whole solve, as machine code, with the step sequence of the eager tier.

Imported only where `compile` is asked for: `residyn.compiled.march`.
"""
