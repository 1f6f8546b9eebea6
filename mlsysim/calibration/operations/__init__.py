"""Coefficients of operations: what activities of accelerators draw."""
