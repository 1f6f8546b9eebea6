"""Kernels: matrix products, attention, collectives and convolutions, and the time that each takes."""
