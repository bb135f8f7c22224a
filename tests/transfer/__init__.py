"""Tests of `residyn.transfer`."""
