"""Built-in losses by name: which positions are scored, with which weight and normaliser; policy gradients."""

from collections.abc import Mapping

from dlm_builtin_plugins.losses.dllm import DllmLoss
from dlm_builtin_plugins.losses.dpo import DpoLoss
from dlm_builtin_plugins.losses.elbo import ElboLoss
from dlm_builtin_plugins.losses.guidelines import GuidelinesLoss
from dlm_builtin_plugins.losses.hybrid import HybridLoss
from dlm_builtin_plugins.losses.policy_clip import PolicyClipLoss
from dlm_builtin_plugins.losses.policy_weighted import PolicyWeightedLoss
from dlm_builtin_plugins.losses.soft_ce import SoftCrossEntropyLoss
from dlm_plugins import Loss

COMPONENTS: Mapping[str, type[Loss]] = {
    "guidelines": GuidelinesLoss,
    "dllm": DllmLoss,
    "soft_ce": SoftCrossEntropyLoss,
    "elbo": ElboLoss,
    "hybrid": HybridLoss,
    "dpo": DpoLoss,
    "policy_clip": PolicyClipLoss,
    "policy_weighted": PolicyWeightedLoss,
}
