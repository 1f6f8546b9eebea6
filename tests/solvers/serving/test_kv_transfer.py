"""A cache between two replicas: its bytes, its way, and what is refused."""

from __future__ import annotations

import pytest

from mlsysim.core.errors import InconsistentError, InputError
from mlsysim.hardware.registry import Hardware
from mlsysim.models.registry import Models
from mlsysim.solvers.serving.kv_transfer import KVTransferModel
from mlsysim.systems.registry import Systems

LLAMA, DGX = Models.Language.Llama2_70B, Systems.Nodes.DGX_H100


def send(workload=LLAMA, hardware=DGX, **changes):
    return KVTransferModel().solve(workload, hardware, **{"seq_len": 2048, **changes})


def test_time_is_bytes_over_rate_and_links_are_as_many_as_requests_fit():
    run = send(prefill_accelerators=2, decode_accelerators=8, request_rate="30 count/s")
    assert run.transfer_time.m_as("second") == pytest.approx(run.kv_cache.m_as("byte") / run.rate.m_as("byte/second"))
    assert run.rate.m_as("GB/s") == pytest.approx(2 * 50)
    assert run.requests_per_second.m == pytest.approx(1 / run.transfer_time.m_as("second"))
    assert run.needed_rate.m_as("byte/second") == pytest.approx(30 * run.kv_cache.m_as("byte"))


def test_a_window_keeps_what_it_sees():
    """gpt-oss: every other layer keeps 128 tokens."""
    model = Models.get("gpt_oss_120b")
    short, long = (send(model, seq_len=tokens).kv_cache.m for tokens in (4096, 8192))
    assert long - short == pytest.approx(4096 / 2 * send(model).kv_per_token.m)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"seq_len": 0}, InputError, "seq_len"),
        ({"prefill_accelerators": 1.5}, InputError, "prefill_accelerators"),
        ({"request_rate": "3 W"}, InputError, "request_rate"),
        ({"hardware": 3}, InputError, "hardware"),
        ({"hardware": Hardware.get("rtx4090")}, InconsistentError, "a network between"),
        ({"workload": Models.get("bert_base")}, InconsistentError, "an encoder keeps no cache"),
        ({"kv_precision": "fp17"}, InputError, "kv_precision"),
    ],
)
def test_what_cannot_be_sent_is_refused(changes, error, text):
    with pytest.raises(error, match=text):
        send(**changes)
