"""Fits of what operations rest on: the power of accelerators."""
