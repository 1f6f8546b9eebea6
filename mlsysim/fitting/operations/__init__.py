"""Fits of operations: scaling laws."""
