"""The hooks (``dlm_losses``, ...): one for each kind of component, without arguments, returning classes by name."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol, TypeVar

import pluggy

from dlm_plugins.advantage import Advantage
from dlm_plugins.attention_bias import AttentionBias
from dlm_plugins.kinds import KINDS, Kind
from dlm_plugins.loss import Loss
from dlm_plugins.masking import Masking
from dlm_plugins.metric import Metric
from dlm_plugins.noise_schedule import NoiseSchedule
from dlm_plugins.noise_type import NoiseType
from dlm_plugins.optimizer import OptimizerFactory
from dlm_plugins.remasking import Remasker
from dlm_plugins.reward import Reward

PROJECT = "dlm"

_Function = TypeVar("_Function", bound=Callable[..., Any])

hookspec = pluggy.HookspecMarker(PROJECT)
_mark = pluggy.HookimplMarker(PROJECT)


def hookimpl(function: _Function) -> _Function:
    """Mark a function of a plugin as the implementation of the hook of its name."""
    return _mark(function)


def hook_specifications() -> ModuleType:
    """What pluggy checks plugins against: an argument-free hook for every row of the table of kinds."""
    specifications = ModuleType("dlm_hooks")
    vars(specifications).update({kind.hook: hookspec(_specification(kind)) for kind in KINDS.values()})
    return specifications


def _specification(kind: Kind) -> Callable[[], Mapping[str, type[Any]]]:
    def specification() -> Mapping[str, type[Any]]:
        raise AssertionError("a hook specification is never called")

    specification.__name__ = kind.hook
    specification.__doc__ = f"Components of kind {kind.name}, by name: each decides {kind.decides}."
    return specification


# A type checker needs a class written down for each hook. A kind without one works all the same.


class ProvidesLosses(Protocol):
    """A module or object with the losses' hook. ``_: ProvidesLosses = my_module`` lets a type checker verify it."""

    def dlm_losses(self) -> Mapping[str, type[Loss]]:
        """Losses by name."""
        ...


class ProvidesNoiseSchedules(Protocol):
    """A module or object with the noise schedules' hook."""

    def dlm_noise_schedules(self) -> Mapping[str, type[NoiseSchedule]]:
        """Noise schedules by name."""
        ...


class ProvidesMaskings(Protocol):
    """A module or object with the maskings' hook."""

    def dlm_maskings(self) -> Mapping[str, type[Masking]]:
        """Maskings by name."""
        ...


class ProvidesNoiseTypes(Protocol):
    """A module or object with the noise types' hook."""

    def dlm_noise_types(self) -> Mapping[str, type[NoiseType]]:
        """Noise types by name."""
        ...


class ProvidesAttentionBiases(Protocol):
    """A module or object with the attention biases' hook."""

    def dlm_attention_biases(self) -> Mapping[str, type[AttentionBias]]:
        """Attention biases by name."""
        ...


class ProvidesRemaskers(Protocol):
    """A module or object with the remaskers' hook."""

    def dlm_remaskers(self) -> Mapping[str, type[Remasker]]:
        """Remasking rules by name."""
        ...


class ProvidesMetrics(Protocol):
    """A module or object with the metrics' hook."""

    def dlm_metrics(self) -> Mapping[str, type[Metric]]:
        """Metrics by name."""
        ...


class ProvidesRewards(Protocol):
    """A module or object with the rewards' hook."""

    def dlm_rewards(self) -> Mapping[str, type[Reward]]:
        """Rewards by name."""
        ...


class ProvidesAdvantages(Protocol):
    """A module or object with the advantages' hook."""

    def dlm_advantages(self) -> Mapping[str, type[Advantage]]:
        """Advantages by name."""
        ...


class ProvidesOptimizers(Protocol):
    """A module or object with the optimizers' hook."""

    def dlm_optimizers(self) -> Mapping[str, type[OptimizerFactory]]:
        """Optimizers by name."""
        ...
