"""Anchors: their schema, and how they are read, solved and compared."""
