"""Reports of how far off the predictions are."""
