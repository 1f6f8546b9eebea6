"""Queues: requests that arrive at random before servers that are busy."""
