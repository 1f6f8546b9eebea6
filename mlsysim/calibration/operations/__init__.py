"""Coefficients of operations: scaling laws, failures, and what activities of accelerators draw."""
