"""Anchors, published figures that predictions are held against: schema, comparison, statistics, reports, the pytest plugin.

This module imports nothing: pytest loads ``mlsysim.validation.plugin`` at every start of every user.
"""
