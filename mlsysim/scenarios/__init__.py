"""Whole questions: a workload, a system, a place and limits; what they come to, and what would help."""
