"""Secure aggregation: the encoding on the integer ring that sums are taken in."""
