"""Tests of residyn.audit."""
