"""What people have, read: configurations of models and command lines of servers, and what they come to."""

from mlsysim.launch.answers import answer_serving
from mlsysim.launch.hf_config import ConfigReading, model_from_config, read_config
from mlsysim.launch.serve import ServingLaunch, serving_launch

__all__ = ["ConfigReading", "ServingLaunch", "answer_serving", "model_from_config", "read_config", "serving_launch"]
