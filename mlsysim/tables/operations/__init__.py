"""Tables of operations: scaling studies, energy."""
