"""Questions about other solvers' answers: what they hang on, and what it would take."""
