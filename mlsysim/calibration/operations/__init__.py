"""Coefficients of operations: scaling laws and failures."""
