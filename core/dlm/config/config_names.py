"""Every name of the run file that other rooms import: its classes, loading, checking, writing, schema."""

from dlm.config.components_in_effect import run_components
from dlm.config.dump_run_file import config_to_mapping, dump_config
from dlm.config.load_run_file import LoadedConfig, load_config, load_mapping
from dlm.config.optim_section import LearningRateConfig, OptimConfig
from dlm.config.run_config import (
    BlockAttentionConfig,
    CheckpointConfig,
    DatasetConfig,
    EvaluationConfig,
    LoggingConfig,
    LoraConfig,
    ModelConfig,
    NoiseConfig,
    PluginsConfig,
    RunConfig,
    TokenizerConfig,
    TokenizerTrainingConfig,
    TrainingConfig,
)
from dlm.config.run_file_schema import json_schema
from dlm.config.run_file_source import RunFileError
from dlm.config.sampling_settings import SamplingSettings

__all__: list[str] = [
    "BlockAttentionConfig",
    "CheckpointConfig",
    "DatasetConfig",
    "EvaluationConfig",
    "LearningRateConfig",
    "LoadedConfig",
    "LoggingConfig",
    "LoraConfig",
    "ModelConfig",
    "NoiseConfig",
    "OptimConfig",
    "PluginsConfig",
    "RunConfig",
    "RunFileError",
    "SamplingSettings",
    "TokenizerConfig",
    "TokenizerTrainingConfig",
    "TrainingConfig",
    "config_to_mapping",
    "dump_config",
    "json_schema",
    "load_config",
    "load_mapping",
    "run_components",
]
