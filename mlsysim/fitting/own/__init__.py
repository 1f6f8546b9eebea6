"""Calibration of a shipped stack or serving engine to a user's own runs."""
