"""Coefficients, each with its source, and how they are read."""
