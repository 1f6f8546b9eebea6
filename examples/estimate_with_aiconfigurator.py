"""AIConfigurator beside mlsysim on the same serving cases.

    pip install aiconfigurator
    pytest anchors/ -k serving --estimator=examples.estimate_with_aiconfigurator:AIConfigurator

Written against ``aiconfigurator.cli.api.cli_estimate`` of release 0.12.0 (Apache-2.0), and not run here. It names
checkpoints as Hugging Face does: it can tell cases of the models and the systems that are listed below.
"""

from __future__ import annotations

from mlsysim.validation.anchors.estimators import EstimatorCase

MODELS = {
    "Llama-3.1 8B": "meta-llama/Llama-3.1-8B",
    "Llama-3.1 70B": "meta-llama/Llama-3.1-70B",
    "Llama-3.1 405B": "meta-llama/Llama-3.1-405B",
    "Qwen3-32B": "Qwen/Qwen3-32B",
    "DeepSeek-V3": "deepseek-ai/DeepSeek-V3",
}
SYSTEMS = {"h100 sxm": "h100_sxm", "h200": "h200_sxm", "b200": "b200_sxm", "gb200": "gb200"}
BACKENDS = {"tensorrt": "trtllm", "vllm": "vllm", "sglang": "sglang"}
PRODUCTS = {"bf16": "bfloat16", "fp16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}
MODES = {"static": "static", "continuous": "agg"}


class AIConfigurator:
    """Times to the first and between further tokens, from AIConfigurator's database of measured operations."""

    def __init__(self) -> None:
        try:
            from aiconfigurator.cli.api import cli_estimate
        except ImportError:
            raise ImportError("AIConfigurator is not installed: pip install aiconfigurator") from None
        self.estimate = cli_estimate

    def predict(self, case: EstimatorCase) -> float | None:
        """Predict a time in milliseconds of one engine's replica, or the tokens a second that follow from it."""
        system, backend = _named(SYSTEMS, case.accelerator.lower()), _named(BACKENDS, case.stack)
        products, mode = PRODUCTS.get(case.precision), MODES.get(str(case.arguments.get("schedule", "static")))
        model, output = MODELS.get(case.model), case.arguments.get("output_len")
        if case.solver != "ServingModel" or not output or None in (system, backend, products, mode, model):
            return None
        experts = {"moe_tp_size": case.arguments.get("tp_size", 1), "moe_ep_size": 1} if case.experts else {}
        batch, replicas = int(case.arguments.get("batch_size", 1)), int(case.arguments.get("replicas", 1))
        told = self.estimate(
            model,
            system,
            mode=mode,
            backend_name=backend,
            isl=int(case.arguments["input_len"]),
            osl=int(output),
            batch_size=batch,
            tp_size=int(case.arguments.get("tp_size", 1)),
            pp_size=int(case.arguments.get("pp_size", 1)),
            gemm_quant_mode=products,
            **experts,
        )
        request_ms = told.ttft + told.tpot * (int(output) - 1)
        return {
            "ttft": told.ttft,
            "token_gap": told.tpot,
            "tpot": told.tpot if case.arguments.get("tpot_excludes_first_token", True) else request_ms / int(output),
            "request_latency": request_ms,
            "tokens_per_second": 1e3 * replicas * batch * int(output) / request_ms,
        }.get(case.metric)


def _named(known: dict[str, str], text: str) -> str | None:
    """The name of the longest key that stands in a text."""
    return next((known[key] for key in sorted(known, key=len, reverse=True) if key in text), None)
