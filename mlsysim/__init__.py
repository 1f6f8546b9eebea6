"""mlsysim: first-principles performance models of ML systems."""
