"""One file a question: each solver checks its input, lowers it to plain numbers, calls physics, returns a frozen result."""
