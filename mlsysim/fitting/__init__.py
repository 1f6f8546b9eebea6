"""Fits of coefficients to the calibration rows of the anchors, and studies of what was left out of a fit."""
