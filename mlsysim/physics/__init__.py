"""Physics as pure functions of floats or numpy arrays in SI units, giving seconds, bytes and joules. Imports nothing else."""
