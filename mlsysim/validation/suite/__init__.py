"""The test functions that anchors run."""
