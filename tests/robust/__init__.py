"""Tests of certificates and attacks."""
