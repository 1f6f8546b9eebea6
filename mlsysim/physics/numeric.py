"""The one numeric type of this room: a float, or an array that broadcasts with the others."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Num: TypeAlias = float | npt.NDArray[np.float64]
