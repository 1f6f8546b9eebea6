"""The public names of the unit registry: ``ureg`` and ``Q_``.

Example:
    >>> from mlsysim.core.constants import Q_
    >>> f"{Q_('275 TFLOP/s').to('PFLOP/s').magnitude:.3f}"
    '0.275'
"""

from mlsysim.core.units import Q_, Quantity, ureg

__all__ = ["Q_", "Quantity", "ureg"]
