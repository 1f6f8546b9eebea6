"""How time, bytes and joules arise: pure functions of floats or numpy arrays in SI units. Imports nothing of ours."""
