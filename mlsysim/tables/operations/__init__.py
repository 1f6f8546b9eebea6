"""Tables of operations: scaling studies."""
