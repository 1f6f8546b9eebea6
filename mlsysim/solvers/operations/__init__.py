"""Solvers of questions about energy, places and budgets."""
