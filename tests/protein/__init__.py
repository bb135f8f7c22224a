"""Tests of the proteins."""
