"""What holds of numbers in flight between those at which a queue was solved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlsysim.physics.numeric import Floats, Whole


@dataclass(frozen=True, slots=True)
class Between:
    """Where numbers in flight lie between those at which a queue was solved: the indices next to each, and how far it is on."""

    low: Whole
    high: Whole
    share: Floats

    @classmethod
    def of(cls, numbers: Floats, solved_at: Floats) -> Between:
        """Places ``numbers`` among ``solved_at``, which rise; beyond its ends they are at the ends.

        Example:
            >>> between = Between.of(np.array([1.0, 3.0, 9.0]), np.array([2.0, 4.0]))
            >>> between.of_all(np.array([10.0, 30.0]))
            array([10., 20., 30.])
        """
        place = np.interp(numbers, solved_at, np.arange(solved_at.size))
        low = place.astype(int)
        return cls(low, np.minimum(low + 1, solved_at.size - 1), place - low)

    def of_all(self, values: Floats) -> Floats:
        """Interpolates ``values``, one a solved queue, to all numbers."""
        return values[self.low] + self.share * (values[self.high] - values[self.low])

    def of_these(self, values: Floats, chosen: Whole) -> Floats:
        """Interpolates ``values``, a row a solved queue, to the ``chosen`` numbers."""
        low = values[self.low[chosen]]
        return low + self.share[chosen, None] * (values[self.high[chosen]] - low)
