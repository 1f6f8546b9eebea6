"""Published measurements as tests of mlsysim; an installed wheel runs them with ``pytest --pyargs mlsysim_anchors``."""
