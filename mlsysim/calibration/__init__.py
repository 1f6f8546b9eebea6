"""Coefficients of the calibrated models, each with its source, and the functions that read them."""
