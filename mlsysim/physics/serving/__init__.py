"""Serving: the passes of a prompt and of a token, and how a scheduler strings them together."""
