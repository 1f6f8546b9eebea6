"""Solvers of serving questions."""
