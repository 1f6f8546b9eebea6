"""Tables of runs: a row of a published table in, a question for a solver and its prediction out."""
