"""Measured kernel tables, what the coefficients predict of them, and the gates that judge them."""
