"""A training step: its parts, how they add up, and the memory they need."""
