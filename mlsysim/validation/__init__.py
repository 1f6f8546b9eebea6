"""What an anchor is: schema, comparison, statistics, reports, and the pytest plugin.

This module imports nothing: pytest loads ``mlsysim.validation.plugin`` at every start of every user.
"""
