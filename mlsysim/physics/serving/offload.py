"""Weights and caches that lie in the host's memory and are streamed to the accelerator in every pass.

A layer's share arrives while the layer before it computes: a pass takes the longer of both. Nothing is computed on the host.

Sources: Sheng et al., "FlexGen", ICML 2023, arXiv:2303.06865, section 4 (a step is the longest of its overlapped transfers and
its computation); Aminabadi et al., "DeepSpeed Inference" (ZeRO-Inference), SC 2022, arXiv:2207.00032 (layers are fetched
ahead).
"""

from __future__ import annotations

from mlsysim.physics.numeric import Num, maximum, minimum

# Layers on the accelerator at once: one computes, the next arrives.
_BUFFERED = 2


def kept_share(offloaded: float, layers: float) -> float:
    """Share of weights (or cache) on the accelerator: all that is not offloaded, and two layers of the rest.

    Example:
        >>> kept_share(1.0, 64.0), kept_share(0.5, 64.0), kept_share(0.0, 64.0), kept_share(1.0, 1.0)
        (0.03125, 0.515625, 1.0, 1.0)
    """
    return 1 - offloaded * (1 - min(1.0, _BUFFERED / layers))


def streamed_weights_s(weights_B: Num, passes: Num, link_Bps: float) -> Num:
    """Seconds to fetch ``weights_B`` anew for each of ``passes`` micro-batches or chunks that go through an accelerator.

    Example:
        >>> streamed_weights_s(50e9, 2.0, 50e9)
        2.0
    """
    return weights_B * passes / link_Bps


def beyond_s(computed_s: Num, transferred_s: Num) -> Num:
    """Seconds that transfers add to a pass that they overlap with: max(computed, transferred) - computed.

    Example:
        >>> beyond_s(1.0, 2.5), beyond_s(1.0, 0.5)
        (1.5, 0.0)
    """
    return maximum(transferred_s - computed_s, 0.0)


def joining_beyond_s(joined_s: Num, waiting_s: Num, prompts_a_step: Num) -> Num:
    """Seconds that one prompt adds to steps of which ``waiting_s`` is a wait for transfers: only what outlasts the wait.

    Example:
        >>> joining_beyond_s(0.25, 1.0, 0.5), joining_beyond_s(4.0, 1.0, 0.5)
        (0.0, 2.0)
    """
    return joined_s - minimum(joined_s * prompts_a_step, waiting_s) / prompts_a_step
