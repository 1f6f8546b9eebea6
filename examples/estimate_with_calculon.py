"""Calculon beside mlsysim on the same training cases.

    pip install git+https://github.com/calculon-ai/calculon
    CALCULON_SYSTEM=systems/a100_80g.json pytest anchors/ -k training --estimator=examples.estimate_with_calculon:Calculon

Calculon (Isaev et al., SC 2023) describes a machine in a JSON file of its repository, which ``CALCULON_SYSTEM`` names: the
cases of that accelerator can be told. The names of its classes and fields are recalled from that repository, and were
not run here.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from mlsysim.validation.anchors.estimators import EstimatorCase


class Calculon:
    """The batch time of Calculon's model of a Megatron-like training step, dense transformers only."""

    def __init__(self) -> None:
        try:
            from calculon.llm import Llm
            from calculon.system import System
        except ImportError:
            raise ImportError("Calculon is not installed: pip install git+https://github.com/calculon-ai/calculon") from None
        self.model, self.system = Llm, System
        file = Path(os.environ["CALCULON_SYSTEM"])
        self.machine, self.named = json.loads(file.read_text("utf-8")), file.stem.split("_")[0]
        self.log = logging.getLogger("calculon")

    def predict(self, case: EstimatorCase) -> float | None:
        """Predict the metric from the time of a batch."""
        asked = case.arguments
        if case.solver != "DistributedModel" or case.experts or self.named not in case.accelerator.lower():
            return None
        if asked.get("cp_size", 1) > 1 or asked.get("zero_stage", 1) > 1:
            return None
        tp, pp = int(asked.get("tp_size", 1)), int(asked.get("pp_size", 1))
        replicas = case.accelerators // (tp * pp)
        application = {
            "name": case.model,
            "hidden": case.hidden,
            "feedforward": case.ffn_hidden,
            "seq_size": int(asked["seq_len"]),
            "attn_heads": case.heads,
            "attn_size": case.hidden // case.heads,
            "num_blocks": case.layers,
        }
        execution = {
            "num_procs": case.accelerators,
            "tensor_par": tp,
            "pipeline_par": pp,
            "data_par": replicas,
            "tensor_par_net": 0,
            "pipeline_par_net": 1,
            "data_par_net": 1,
            "batch_size": int(asked["batch_size"]),
            "microbatch_size": int(asked["batch_size"]) // (replicas * int(asked.get("microbatch_count") or 1)),
            "datatype": "float16",
            "fused_activation": True,
            "attention_type": "multihead",
            "activation_recompute": {"full": "full", "selective": "attn_only"}.get(str(asked.get("recompute")), "none"),
            "pipeline_interleaving": int(asked.get("virtual_stages", 1)),
            "optimizer_sharding": asked.get("zero_stage", 1) == 1,
            "tensor_par_comm_type": "rs_ag" if asked.get("sequence_parallel") else "ar",
            "tensor_par_overlap": "none",
            "seq_par_ag_redo": False,
            "data_par_overlap": False,
            "weight_offload": False,
            "activations_offload": False,
            "optimizer_offload": False,
            "training": True,
        }
        step = self.model(self.model.Application(application), self.log)
        machine = self.system(self.machine, self.log)
        step.compile(machine, self.model.Execution.from_json(execution))
        step.run(machine)
        return case.of_step_time(step.get_total_time())
