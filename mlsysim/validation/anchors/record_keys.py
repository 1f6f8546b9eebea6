"""Names that the plugin, the tests and the reports share. Light: the plugin imports it at every start of pytest."""

from __future__ import annotations

# A user's own file of anchors; the plugin collects these.
USER_SUFFIX = ".anchor.toml"
# A user's own table of runs.
TABLE_SUFFIX = ".csv"
# What a wheel calls the folder of the anchors.
PACKAGE = "mlsysim_anchors"
# The user_properties in which a test hands its findings to the controller (and to --junitxml).
ROW = "mlsysim_anchor"
MOVE = "mlsysim_moved"
KERNELS = "mlsysim_kernels"
TARGET = "mlsysim_target"
LEFT_OUT = "mlsysim_left_out"
SERVING_LEFT_OUT = "mlsysim_serving_left_out"
RECALLED = "mlsysim_recalled"
SEARCH = "mlsysim_search"
SOLVE = "mlsysim_solve"
RUN = "mlsysim_run"
# The keyword of modules whose tests are of anchors.
OF_ANCHORS = "mlsysim_anchors"
# How much of the report a run prints.
SUMMARIES = ("short", "full")
# What --anchor-report can write, by the file's ending.
REPORT_FORMATS = (".json", ".md", ".tex", ".html", ".png")
