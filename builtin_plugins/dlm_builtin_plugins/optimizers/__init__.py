"""Built-in optimizers by name: from parameter groups to a ``torch.optim.Optimizer``."""

from collections.abc import Mapping

from dlm_builtin_plugins.optimizers.adamw import AdamW
from dlm_builtin_plugins.optimizers.adamw8bit import AdamW8bit
from dlm_builtin_plugins.optimizers.lion8bit import Lion8bit
from dlm_plugins import OptimizerFactory

COMPONENTS: Mapping[str, type[OptimizerFactory]] = {
    "adamw": AdamW,
    "adamw8bit": AdamW8bit,
    "lion8bit": Lion8bit,
}
