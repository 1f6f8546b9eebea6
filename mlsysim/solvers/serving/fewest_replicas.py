"""How many copies of a model a load takes, each of which keeps the limits under its share of the arrivals."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mlsysim.lowering.arrivals import ALMOST, Limits, Paces
from mlsysim.physics.numeric import Floats
from mlsysim.physics.queues.open_loop import OpenLoop, by_places
from mlsysim.physics.queues.queueing import delay_scale_s

_FIRST_STEP = 16  # of the copies that the capacity alone takes: limits rarely ask for much more
_DOUBT = 2.0  # times as many requests as may miss a limit: the chain alone is as near as that
_SURE = 1.01  # times as many: a least share of late ones, as the queue of prompts is solved
_ENDLESS = 2**50  # copies among which each has next to no arrivals
Found = TypeVar("Found")


def held(pace: Paces, limits: Limits, arrival_per_s: float) -> OpenLoop | None:
    """Returns what requests see that arrive at this rate, or None where they do not keep the limits.

    It asks the open-loop model, as ``TailLatencyModel`` does.
    """
    if arrival_per_s >= ALMOST * pace.capacity_per_s:
        return None
    seen = pace.under(arrival_per_s, 0.0)
    return seen if limits.kept(seen, pace.setting.output) else None


def hopeful(
    completions_per_s: Floats, token_s: Floats, limits: Limits, arrival_per_s: float, in_time: float, most_decoding: float
) -> npt.NDArray[np.bool_]:
    """Returns which numbers of places 1, 2, ... may keep the limits: the chain alone, without the prompts' turns, is no worse.

    ``in_time`` is the share of the requests that find others in flight whose first token may be in time, at most. Of more
    places than ``most_decoding`` none is waited for: prompts are in one line, which is not looked at here.
    """
    taken, late = by_places(arrival_per_s, completions_per_s, token_s > limits.token_s)
    _, met = by_places(arrival_per_s, completions_per_s, np.arange(token_s.size) > 0)
    place_s = delay_scale_s(1 / completions_per_s, 1, np.minimum(arrival_per_s / completions_per_s, ALMOST), 0.0)
    waited_for = taken * (np.arange(1, taken.size + 1) <= most_decoding)
    no_place = waited_for * np.exp(-min(limits.first_s, limits.request_s) / place_s)
    late = np.maximum(late, np.maximum(no_place, met * (1 - in_time)))
    return np.asarray(late <= _DOUBT * (1 - limits.share)) & (arrival_per_s < ALMOST * completions_per_s)


def hopeless(pace: Paces, limits: Limits, arrival_per_s: float) -> npt.NDArray[np.bool_]:
    """Returns with which numbers of places 1, 2, ... too many first tokens are late: one queue says so, not one for each.

    Those are late who meet others and have a place, of whom no more have none than if requests took longer, more than the
    first; and those who wait for a place, where steps are so long with all places taken.
    """
    if limits.first_s == inf or pace.places <= 2 or pace.most_decoding < pace.places:
        return np.zeros(pace.places, bool)
    late, met_per_s = pace.met_one(arrival_per_s, limits.first_s)
    longer = _DOUBT * max(1.0, float(pace.completions_per_s[0]) / met_per_s)
    taken, _ = by_places(longer * arrival_per_s, pace.completions_per_s, np.zeros(pace.places, bool))
    together = np.maximum(np.arange(1.0, pace.places + 1.0) / pace.setting.rounds_each, 1.0)
    found_s = np.append(pace.step_s[:1], pace.step_s[:-1])
    last_s = pace.front_s + (1 + pace.setting.ahead) * found_s + together * pace.joined_s
    taken[last_s > limits.first_s] = 0.0
    taken[0] = 1.0  # who has the only place meets nobody
    met = arrival_per_s / (arrival_per_s + met_per_s)
    return np.asarray(late * (met - taken) > _SURE * (1 - limits.share))


def fewest(holds: Callable[[int], Found | None], least: int, most: float = inf) -> tuple[int, Found] | None:
    """Returns the least number of copies that hold, and what ``holds`` says of them; None where ``most`` do not.

    More copies never hold less. The search steps up from ``least``, ever faster, and then halves the last step.

    Example:
        >>> fewest(lambda count: "enough" if count >= 23 else None, least=10)
        (23, 'enough')
        >>> fewest(lambda count: None, least=1, most=8) is None
        True
    """
    most = min(most, _ENDLESS)
    low, count, step = least - 1, least, max(1, least // _FIRST_STEP)
    while count <= most:
        answer = holds(count)
        if answer is not None:
            break
        low, count, step = count, count + step if count + step <= most or count == most else int(most), 2 * step
    else:
        return None
    while count - low > 1:
        middle = (low + count) // 2
        nearer = holds(middle)
        if nearer is None:
            low = middle
        else:
            count, answer = middle, nearer
    return count, answer


def least_copies(rate_per_s: float, capacity_per_s: float) -> int:
    """Returns the copies below which ``rate_per_s`` is beyond what they can complete.

    Example:
        >>> least_copies(20.0, 5.0), least_copies(20.0, 6.0)  # at capacity a queue has no end
        (5, 4)
    """
    return max(1, ceil(rate_per_s / (ALMOST * capacity_per_s)))
