"""mlsysim: first-principles performance models of ML systems, proven by a pytest suite of published measurements.

Names load on first use (PEP 562), so that the pytest plugin costs nothing where no anchors run.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlsysim import core, hardware, infra, launch, models, plots, solvers, systems
    from mlsysim.core.errors import InfeasibleError, InputError, MissingExtraError, MLSysError
    from mlsysim.core.units import Q_, ureg
    from mlsysim.hardware.registry import Hardware
    from mlsysim.hardware.types import HardwareNode
    from mlsysim.infra.registry import Infra
    from mlsysim.infra.types import Grid, Site
    from mlsysim.launch.hf_config import model_from_config
    from mlsysim.models.registry import Models
    from mlsysim.models.types import CNNWorkload, TransformerWorkload
    from mlsysim.scenarios.files import load_config
    from mlsysim.scenarios.scenario import Scenario
    from mlsysim.scenarios.walls import walls
    from mlsysim.solvers.analysis.efficiency import EfficiencyModel
    from mlsysim.solvers.analysis.sensitivity import SensitivitySolver
    from mlsysim.solvers.analysis.synthesis import SynthesisSolver
    from mlsysim.solvers.compare import compare
    from mlsysim.solvers.operations.checkpoint import CheckpointModel
    from mlsysim.solvers.operations.data import DataModel, TransformationModel
    from mlsysim.solvers.operations.economics import EconomicsModel
    from mlsysim.solvers.operations.orchestration import OrchestrationModel
    from mlsysim.solvers.operations.placement import PlacementOptimizer
    from mlsysim.solvers.operations.power import PowerModel
    from mlsysim.solvers.operations.privacy import ResponsibleEngineeringModel
    from mlsysim.solvers.operations.reliability import ReliabilityModel
    from mlsysim.solvers.operations.scaling import ScalingModel
    from mlsysim.solvers.operations.sustainability import SustainabilityModel
    from mlsysim.solvers.operations.time_to_train import time_to_train
    from mlsysim.solvers.operations.topology import TopologyModel
    from mlsysim.solvers.serving.batch_server import BatchServerModel
    from mlsysim.solvers.serving.batching import BatchingOptimizer
    from mlsysim.solvers.serving.capacity import CapacityPlanner
    from mlsysim.solvers.serving.compression import CompressionModel
    from mlsysim.solvers.serving.continuous_batching import ContinuousBatchingModel
    from mlsysim.solvers.serving.inference_scaling import InferenceScalingModel
    from mlsysim.solvers.serving.kv_transfer import KVTransferModel
    from mlsysim.solvers.serving.serving import ServingModel
    from mlsysim.solvers.serving.speculative_decoding import SpeculativeDecodingModel
    from mlsysim.solvers.serving.tail_latency import TailLatencyModel
    from mlsysim.solvers.serving.token_server import TokenServerModel
    from mlsysim.solvers.serving.weight_streaming import WeightStreamingModel
    from mlsysim.solvers.training.distributed import DistributedModel
    from mlsysim.solvers.training.fleets import FleetOptimizer
    from mlsysim.solvers.training.parallelism import ParallelismOptimizer
    from mlsysim.solvers.training.single_node import SingleNodeModel
    from mlsysim.systems.registry import Systems
    from mlsysim.systems.types import Fleet, NetworkFabric, Node
    from mlsysim.tables.predict import predict_table

# Another distribution brings a package of this name: each overwrites files of the other.
for _other in Path(__file__).parents[1].glob("mlsysim-*.dist-info"):
    raise ImportError(
        f"{_other.stem} and mlsysim-anchors both bring the package mlsysim and overwrite each other's files: "
        "pip uninstall mlsysim mlsysim-anchors, then pip install mlsysim-anchors"
    )

__version__ = "0.1.0"

_HOMES = {
    "BatchServerModel": "solvers.serving.batch_server",
    "BatchingOptimizer": "solvers.serving.batching",
    "CNNWorkload": "models.types",
    "CapacityPlanner": "solvers.serving.capacity",
    "CheckpointModel": "solvers.operations.checkpoint",
    "CompressionModel": "solvers.serving.compression",
    "ContinuousBatchingModel": "solvers.serving.continuous_batching",
    "DataModel": "solvers.operations.data",
    "DistributedModel": "solvers.training.distributed",
    "EconomicsModel": "solvers.operations.economics",
    "EfficiencyModel": "solvers.analysis.efficiency",
    "Fleet": "systems.types",
    "FleetOptimizer": "solvers.training.fleets",
    "Grid": "infra.types",
    "Hardware": "hardware.registry",
    "HardwareNode": "hardware.types",
    "InfeasibleError": "core.errors",
    "InferenceScalingModel": "solvers.serving.inference_scaling",
    "Infra": "infra.registry",
    "InputError": "core.errors",
    "KVTransferModel": "solvers.serving.kv_transfer",
    "MLSysError": "core.errors",
    "MissingExtraError": "core.errors",
    "Models": "models.registry",
    "NetworkFabric": "systems.types",
    "Node": "systems.types",
    "OrchestrationModel": "solvers.operations.orchestration",
    "ParallelismOptimizer": "solvers.training.parallelism",
    "PlacementOptimizer": "solvers.operations.placement",
    "PowerModel": "solvers.operations.power",
    "Q_": "core.units",
    "ReliabilityModel": "solvers.operations.reliability",
    "ResponsibleEngineeringModel": "solvers.operations.privacy",
    "ScalingModel": "solvers.operations.scaling",
    "Scenario": "scenarios.scenario",
    "SensitivitySolver": "solvers.analysis.sensitivity",
    "ServingModel": "solvers.serving.serving",
    "SingleNodeModel": "solvers.training.single_node",
    "Site": "infra.types",
    "SpeculativeDecodingModel": "solvers.serving.speculative_decoding",
    "SustainabilityModel": "solvers.operations.sustainability",
    "SynthesisSolver": "solvers.analysis.synthesis",
    "Systems": "systems.registry",
    "TailLatencyModel": "solvers.serving.tail_latency",
    "TokenServerModel": "solvers.serving.token_server",
    "TopologyModel": "solvers.operations.topology",
    "TransformationModel": "solvers.operations.data",
    "TransformerWorkload": "models.types",
    "WeightStreamingModel": "solvers.serving.weight_streaming",
    "load_config": "scenarios.files",
    "compare": "solvers.compare",
    "model_from_config": "launch.hf_config",
    "predict_table": "tables.predict",
    "time_to_train": "solvers.operations.time_to_train",
    "ureg": "core.units",
    "walls": "scenarios.walls",
}
_ROOMS = (
    "calibration",
    "core",
    "fitting",
    "hardware",
    "infra",
    "launch",
    "lowering",
    "models",
    "physics",
    "plots",
    "scenarios",
    "solvers",
    "systems",
    "tables",
    "validation",
)

__all__ = [
    "Q_",
    "BatchServerModel",
    "BatchingOptimizer",
    "CNNWorkload",
    "CapacityPlanner",
    "CheckpointModel",
    "CompressionModel",
    "ContinuousBatchingModel",
    "DataModel",
    "DistributedModel",
    "EconomicsModel",
    "EfficiencyModel",
    "Fleet",
    "FleetOptimizer",
    "Grid",
    "Hardware",
    "HardwareNode",
    "InfeasibleError",
    "InferenceScalingModel",
    "Infra",
    "InputError",
    "KVTransferModel",
    "MLSysError",
    "MissingExtraError",
    "Models",
    "NetworkFabric",
    "Node",
    "OrchestrationModel",
    "ParallelismOptimizer",
    "PlacementOptimizer",
    "PowerModel",
    "ReliabilityModel",
    "ResponsibleEngineeringModel",
    "ScalingModel",
    "Scenario",
    "SensitivitySolver",
    "ServingModel",
    "SingleNodeModel",
    "Site",
    "SpeculativeDecodingModel",
    "SustainabilityModel",
    "SynthesisSolver",
    "Systems",
    "TailLatencyModel",
    "TokenServerModel",
    "TopologyModel",
    "TransformationModel",
    "TransformerWorkload",
    "WeightStreamingModel",
    "compare",
    "core",
    "hardware",
    "infra",
    "launch",
    "load_config",
    "model_from_config",
    "models",
    "plots",
    "predict_table",
    "solvers",
    "systems",
    "time_to_train",
    "ureg",
    "walls",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"mlsysim.{_HOMES[name]}"), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"mlsysim.{name}")
    else:
        raise AttributeError(f"module 'mlsysim' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_ROOMS})
