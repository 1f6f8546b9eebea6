"""The KV cache on its way from accelerators that prefill to those that decode: ``KVTransferModel``.

Sources: Patel et al., "Splitwise", ISCA 2024; Zhong et al., "DistServe", OSDI 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

from mlsysim.core.checks import instance, strict_keywords, whole_number
from mlsysim.core.choices import Precision
from mlsysim.core.errors import InconsistentError
from mlsysim.core.precision import precision_name
from mlsysim.core.units import Quantity, with_unit
from mlsysim.hardware.types import HardwareNode
from mlsysim.lowering.deployment import prompt_tokens, requests_per_s
from mlsysim.lowering.options import PromptOptions
from mlsysim.lowering.work import cached_B
from mlsysim.models.types import TransformerWorkload
from mlsysim.physics.layer.attention import cached_tokens
from mlsysim.physics.serving.disaggregation import kv_transfer_s
from mlsysim.solvers.result import Result
from mlsysim.solvers.serving.capacity_space import Offer
from mlsysim.systems.types import Fleet, Node


@dataclass(frozen=True, kw_only=True)
class KVTransferResult(Result):
    """The bytes sent for one request, and how long that takes.

    Attributes:
        kv_per_token: bytes that one token leaves in the cache, all layers.
        kv_cache: of the whole prompt (of windowed layers: what they keep).
        transfer_time: from the prefilling accelerators to the decoding ones.
        rate: at which it is sent, of all that send at once.
        needed_rate: bytes a second of ``request_rate`` requests; 0 where nobody says.
        requests_per_second: that one such link of replicas can carry.
    """

    HEADLINE = ("kv_cache", "transfer_time", "kv_per_token", "rate", "requests_per_second")

    kv_per_token: Quantity
    kv_cache: Quantity
    transfer_time: Quantity
    rate: Quantity
    needed_rate: Quantity
    requests_per_second: Quantity


class KVTransferModel:
    """Bytes and time of one request's cache between a prefill and a decode replica, as ``CapacityPlanner`` counts them."""

    @strict_keywords
    def solve(
        self,
        workload: TransformerWorkload,
        hardware: HardwareNode | Node | Fleet,
        *,
        kv_precision: Precision | str = "fp16",
        prefill_accelerators: int = 1,
        decode_accelerators: int = 1,
        request_rate: Quantity | str | None = None,
        arrival_rate: Quantity | str | None = None,
        **prompt: Unpack[PromptOptions],
    ) -> KVTransferResult:
        """The cache of a prompt of ``input_len`` tokens over the network of ``hardware``.

        Args:
            workload: a decoder.
            hardware: a fleet or a node, over its network; an accelerator, over its own link.
            kv_precision: number format of the cache.
            prefill_accelerators: that hold the cache, each its part (TP x PP).
            decode_accelerators: that take it; as many send at once as there are of the fewer.
            request_rate: requests a second, for the rate that they need.
            arrival_rate: another name of ``request_rate``.
            **prompt: see ``PromptOptions``.

        Raises:
            InputError: an argument out of range, or hardware without a network.

        Example:
            >>> from mlsysim import Models, Systems
            >>> run = KVTransferModel().solve(Models.Language.Llama2_70B, Systems.Nodes.DGX_H100, input_len=2048)
            >>> run.kv_per_token.m_as("byte"), f"{run.transfer_time.to('ms').magnitude:.1f} ms"
            (327680.0, '13.4 ms')
        """
        model = instance("workload", workload, TransformerWorkload, "a transformer such as Models.Language.Llama3_8B")
        if not model.causal:
            raise InconsistentError("workload", model.name, "a decoder: an encoder keeps no cache")
        tokens = prompt_tokens(**prompt)
        senders = whole_number("prefill_accelerators", prefill_accelerators)
        receivers = whole_number("decode_accelerators", decode_accelerators)
        per_s = requests_per_s(request_rate, arrival_rate) or 0.0
        if isinstance(hardware, (Node, Fleet)):
            network_Bps = Offer.of(hardware, 1.0).network_Bps
        else:
            expected = "an accelerator such as Hardware.Cloud.H100, a Node or a Fleet"
            network_Bps = instance("hardware", hardware, HardwareNode, expected).interconnect_bandwidth_Bps or 0.0
        if not 0 < network_Bps < float("inf"):
            raise InconsistentError("hardware", hardware.name, "one with a network between its accelerators")
        each_B = cached_B(model, precision_name("kv_precision", kv_precision))
        cache_B = each_B * float(cached_tokens(model.layer_shape, float(tokens)))
        seconds = float(kv_transfer_s(cache_B, float(senders), float(receivers), network_Bps))
        return KVTransferResult(
            solver="KVTransferModel",
            subject=f"{tokens} tokens of {model.name}, {senders} to {receivers} accelerators of {hardware.name}",
            basis="bound",
            binding="network",
            breakdown={"network": with_unit(seconds, "second")},
            kv_per_token=with_unit(each_B, "byte"),
            kv_cache=with_unit(cache_B, "byte"),
            transfer_time=with_unit(seconds, "second"),
            rate=with_unit(cache_B / seconds, "byte/second"),
            needed_rate=with_unit(cache_B * per_s, "byte/second"),
            requests_per_second=with_unit(1 / seconds, "count/second"),
        )
