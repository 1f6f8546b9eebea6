"""What one solver recommends, the others keep: each is asked about the other's answer."""

from __future__ import annotations

import random

import pytest

from mlsysim import BatchingOptimizer, CapacityPlanner, Hardware, Models, ServingModel, Systems, TailLatencyModel

MODELS = [Models.get(name) for name in ("Llama-3.1-8B", "Qwen3-32B", "Llama-3.1-70B", "Mixtral-8x7B")]
CARDS = [Hardware.Cloud.A100, Hardware.Cloud.H100, Hardware.Cloud.H200, Hardware.Cloud.L40S, Hardware.Cloud.MI300X]
STACKS = [None, "vllm-2025", "sglang-2025", "tensorrt-llm-1.0"]
LIMITS = {"max_ttft": "ttft", "max_itl": "tpot", "max_latency": "latency"}


def seconds(quantity):
    return quantity.m_as("second")


def random_question(seed):
    """A load on a card or its node, with limits that a lone request mostly keeps."""
    rng = random.Random(seed)
    model, card = rng.choice(MODELS), rng.choice(CARDS)
    asked = {"input_len": rng.choice([64, 500, 1000, 4000]), "output_len": rng.choice([2, 32, 300, 1000])}
    asked |= {"stack": rng.choice(STACKS), "request_rate": f"{10 ** rng.uniform(-1.5, 2):.4g} count/s"}
    limits = {
        "max_ttft": f"{10 ** rng.uniform(-1, 1.3):.3g} s",
        "max_itl": f"{10 ** rng.uniform(0.9, 2.2):.3g} ms",
        "max_latency": f"{asked['output_len'] * 10 ** rng.uniform(-1.8, -0.7) + 2:.3g} s",
    }
    chosen = rng.choice([("max_ttft",), ("max_itl",), ("max_ttft", "max_itl"), ("max_ttft", "max_itl"), tuple(limits)])
    limits = {name: limits[name] for name in chosen}
    return model, card, asked, limits, rng.choice([0.5, 0.9, 0.99, 0.99, 0.99, 0.999])


def tail(model, card, asked, share, row):
    plan = {"tp_size": row["tp"], "pp_size": row["pp"], "batch_size": row["batch"], "replicas": row["replicas"]}
    return TailLatencyModel().solve(model, card, **asked, **plan, percentile=share, precision=row["precision"])


def keeps(run, limits):
    """Whether the tail model says that the limits are kept, to the last bits of a percentile."""
    if not run.feasible:
        return False
    return all(run.at_percentile[LIMITS[name]] <= (1 + 1e-9) * run.at_percentile["ttft"].__class__(limits[name]) for name in limits)


def smaller(model, card, asked, found, tried):
    """Every plan with fewer accelerators, with every batch that the planner chooses among."""
    node = Systems_node(card)
    for tp in (size for size in range(1, node + 1) if node % size == 0 and model.heads % size == 0):
        for pp in (size for size in range(1, node // tp + 1) if -(-model.layers // size) * size <= 1.05 * model.layers):
            for replicas in range((found.accelerators - 1) // (tp * pp), 0, -1):
                yield {"tp": tp, "pp": pp, "replicas": replicas, "precision": "fp16"}
