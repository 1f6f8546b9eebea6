"""What is known of a cluster's coefficients before any run of it, and which runs would place each."""

from __future__ import annotations

from typing import NamedTuple


class Prior(NamedTuple):
    """How far a coefficient may be from its shipped value, in its own unit, and which run would place it."""

    width: float
    placed_by: str


_LINKS = Prior(0.3, "runs with and without tensor parallelism of one model on one node (tp = 1 and tp = 8)")
_NETWORK = Prior(0.3, "runs of one model on one node and on several, with data or pipeline parallelism between them")
PRIORS: dict[str, dict[str, Prior]] = {
    "stack": {
        "link_share": _LINKS,
        "network_share": _NETWORK,
        "compute_share": Prior(0.1, "a run on one node with large micro-batches, whose time is arithmetic"),
        "host_layer_s": Prior(
            5e-4, "a run of a small model or a short sequence, whose kernels are shorter than their launches"
        ),
        "host_step_s": Prior(3e-2, "a run with one micro-batch a step, beside one with many"),
        "tp_hidden_forward": Prior(0.05, "runs with tensor parallelism at two hidden sizes"),
        "tp_hidden_backward": Prior(0.05, "runs with tensor parallelism at two hidden sizes"),
        "dp_hidden": Prior(0.05, "runs with data parallelism at two global batches"),
        "pp_hidden": Prior(0.05, "runs with and without pipeline parallelism (pp = 1 and pp > 1)"),
        "interleaved_sends_hidden": Prior(0.05, "runs with and without virtual stages (vpp = 1 and vpp > 1)"),
        "norm_B": Prior(20.0, "runs at two hidden sizes with a small micro-batch"),
        "accumulated_B": Prior(2.0, "runs with few and with many micro-batches a step"),
        "attention_rate": Prior(0.1, "runs at a short and at a long sequence"),
        "tp_wait_s": Prior(1e-4, "runs with and without tensor parallelism at a small micro-batch"),
        "network_step_s": Prior(1e-4, "runs with hybrid sharding on few and on many nodes"),
        "host_expert_s": Prior(2e-3, "a run of a model with many small experts"),
        "routed_B": Prior(20.0, "a run of a model with experts at a large micro-batch"),
        "ep_hidden": Prior(0.05, "runs of a model with experts at two sizes of expert parallelism"),
    },
    "engine": {
        "link_share": _LINKS,
        "network_share": Prior(0.3, "a run whose tensor or pipeline parallelism crosses nodes"),
        "compute_share": Prior(0.1, "first tokens of long prompts"),
        "memory_share": Prior(0.1, "times between tokens of a small batch"),
        "attention_share": Prior(0.15, "times between tokens of a large batch at a long context"),
        "layer_s": Prior(3e-5, "times between tokens of a small model at batch 1"),
        "step_s": Prior(5e-4, "times between tokens of models with few and with many layers"),
        "sequence_s": Prior(1.0, "times between tokens at a small and at a large batch"),  # of its logarithm
        "latency_share": Prior(0.5, "times between tokens with and without tensor parallelism at batch 1"),
        "request_s": Prior(2e-2, "first tokens of short prompts"),
    },
}
# What belongs to a cluster is calibrated of every stack and engine; else what is fitted of the shipped one.
OF_CLUSTER = {
    "stack": ("link_share", "network_share", "compute_share", "host_layer_s", "host_step_s"),
    "engine": ("link_share", "network_share", "compute_share", "memory_share", "layer_s", "step_s"),
}
