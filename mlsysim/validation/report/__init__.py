"""Reports of the errors of predictions."""
