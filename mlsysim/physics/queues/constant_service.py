"""M/D/1, one server with a constant service time: the waiting time exactly, from positive terms only.

Erlang's own sum (1909) alternates in sign and loses all digits after some twenty service times; Franx's form does not, and
further out the tail is exponential to more digits than a float has.

Sources: Franx, "A simple solution for the M/D/c waiting time distribution", Operations Research Letters 29, 2001; Tijms, "A
First Course in Stochastic Models", 2003, sections 2.6 and 9.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import mul

from mlsysim.physics.queues.queueing import percentile_s

# From here the exponential tail's relative error is below 1e-13 at every load: the next root decays faster by e^-1.5 a service.
_FAR_SERVICES = 24


@dataclass(frozen=True, slots=True)
class ConstantService:
    """M/D/1 at ``load`` rho < 1, in units of the service time.

    ``within[j]``: probability that at most j customers queue, as far as waits are asked for; ``decay`` and ``front``:
    P(W > t) -> front exp(-decay t).
    """

    load: float
    within: tuple[float, ...]
    decay: float
    front: float

    @classmethod
    def of(cls, load: float, longest: float = math.inf) -> ConstantService:
        """The queue at this load.

        Numbers in the system by p(n+1) a(0) = p(0) A(n) + sum of p(i) A(n+1-i), i = 1..n, with a(j) the Poisson
        probabilities of arrivals in a service and A(j) those of more than j (up- and downcrossings balance).

        Args:
            load: rho.
            longest: the longest wait that will be asked for, in services, where that is known: a search of loads has one.

        Example:
            >>> queue = ConstantService.of(0.5)
            >>> round(queue.wait_tail(0.0), 12)
            0.5
        """
        idle = 1 - load
        customers = _FAR_SERVICES + 1 if longest == math.inf else 0 if longest >= _FAR_SERVICES else math.floor(longest) + 1
        arrivals = [math.exp(-load)]
        for number in range(1, _FAR_SERVICES + 40):
            arrivals.append(arrivals[-1] * load / number)
        more = [math.fsum(arrivals[number + 1 :]) for number in range(customers)]
        present = [idle]
        for number in range(customers):
            flow = [idle * more[number], *map(mul, present[1:], more[number:0:-1])]
            present.append(math.fsum(flow) / arrivals[0])
        total, within = present[0], []
        for probability in present[1:]:
            total += probability
            within.append(total)
        root = _root(load)
        return cls(load, tuple(within), load * root, idle / (load * (1 + root) - 1))

    def wait_tail(self, services: float) -> float:
        """P(W > t) for t in service times.

        Example:
            >>> round(ConstantService.of(0.5).wait_tail(1.0), 9)  # 1 - 0.5 exp(0.5)
            0.175639365
        """
        if services >= _FAR_SERVICES:
            return self.front * math.exp(-self.decay * services)
        whole = math.floor(services) + 1
        left = self.load * (whole - services)
        term, sum_ = math.exp(-left), 0.0
        for number in range(whole):
            sum_ += term * self.within[whole - 1 - number]
            term *= left / (number + 1)
        return max(0.0, 1 - sum_)

    def wait_percentile(self, share: float) -> float:
        """Wait in service times that ``share`` of the arrivals do not exceed.

        Example:
            >>> round(ConstantService.of(0.5).wait_percentile(0.7), 9)  # ln(0.7 / 0.5) / 0.5
            0.672944473
        """
        return percentile_s(share, self.wait_tail, 1.0)


def _root(load: float) -> float:
    """The positive x with load x = ln(1 + x): Newton from 1/load^2 - 1, which lies above it, on a convex curve."""
    x = 1 / load**2 - 1
    for _ in range(100):
        next_x = x - (load * x - math.log1p(x)) / (load - 1 / (1 + x))
        if not next_x < x:
            break
        x = next_x
    return x
