"""The run file as one object: which sections there are."""

import attrs

from dlm.config.dataset import DatasetConfig
from dlm.config.fields import section, setting
from dlm.config.model import LoraConfig, ModelConfig
from dlm.config.observation import EvaluationConfig, LoggingConfig, PluginsConfig
from dlm.config.optim_section import DEFAULT_OPTIMIZER, OptimConfig
from dlm.config.sampling_settings import SamplingSettings
from dlm.config.training import TrainingConfig
from dlm_plugins.strict_objects import UNSTRUCTURED_DEFAULT


@attrs.frozen(kw_only=True)
class RunConfig:
    """Everything a run depends on."""

    model: ModelConfig = section("The model.")
    training: TrainingConfig = section("The training.")
    dataset: DatasetConfig = section("The data.")
    optim: OptimConfig = attrs.field(
        metadata={
            "help": "The optimizer by name with its options, and the course of the learning rate.",
            UNSTRUCTURED_DEFAULT: {"name": DEFAULT_OPTIMIZER},
        }
    )
    lora: LoraConfig | None = setting(
        "Train low-rank adapters only (extra: dlm[lora]), to be merged by dlm merge; null: all weights.", None
    )
    evaluation: EvaluationConfig = section("Evaluation during training.")
    sampling: SamplingSettings = section("Generation of samples.")
    logging: LoggingConfig = section("Metrics and trackers.")
    plugins: PluginsConfig = section("Third-party plugins.")
