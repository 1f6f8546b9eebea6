"""What people have, read and written: configurations of models, launch files of training runs, command lines of servers."""

from mlsysim.launch.answers import answer_serving
from mlsysim.launch.export_serving import export_serving, planned_serving
from mlsysim.launch.export_training import export_training, planned_training
from mlsysim.launch.hf_config import ConfigReading, model_from_config, read_config
from mlsysim.launch.serve import ServingLaunch, serving_launch
from mlsysim.launch.training import answer_training, training_launch
from mlsysim.launch.training_run import TrainingLaunch

__all__ = [
    "ConfigReading",
    "ServingLaunch",
    "TrainingLaunch",
    "answer_serving",
    "answer_training",
    "export_serving",
    "export_training",
    "model_from_config",
    "planned_serving",
    "planned_training",
    "read_config",
    "serving_launch",
    "training_launch",
]
