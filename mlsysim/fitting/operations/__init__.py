"""Fits of operations: scaling laws, and the power of accelerators."""
