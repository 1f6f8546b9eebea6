"""Solvers of training questions."""
