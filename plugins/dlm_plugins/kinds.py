"""The table of kinds: one row drives registry, structuring, command line, documentation and contract tests."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from dlm_plugins.advantage import GAMMA, NEEDS_VALUES, Advantage
from dlm_plugins.attention_bias import BLOCKS_ARE_INDEPENDENT, NEEDS_CLEAN_COPY, PREFIX_IS_STATIC, AttentionBias
from dlm_plugins.claims import Claim
from dlm_plugins.loss import (
    FIGURES,
    IS_LIKELIHOOD_WEIGHTED,
    NEEDS_ADVANTAGE,
    NEEDS_CAUSAL_COPY,
    NEEDS_PAIRS,
    NEEDS_REFERENCE,
    NUM_DRAWS,
    RATIO_BOUNDS,
    Loss,
)
from dlm_plugins.masking import FOLLOWS_RATE, IS_INDEPENDENT, NEEDS_TRACE, NUM_VIEWS, Masking
from dlm_plugins.metric import HIGHER_IS_BETTER, NEEDS, Metric
from dlm_plugins.noise_schedule import COVERS_UNIT_INTERVAL, NoiseSchedule
from dlm_plugins.noise_type import IS_ABSORBING, MAY_WRITE_MASK, NoiseType
from dlm_plugins.optimizer import OptimizerFactory
from dlm_plugins.remasking import (
    FOLLOWS_PREDICTIONS,
    NEEDS_COMMITTED_PREDICTIONS,
    RESPECTS_QUOTA,
    TAKES_BACK,
    Remasker,
)
from dlm_plugins.reward import COLUMNS, RUNS_CODE, Reward


@attrs.frozen(kw_only=True)
class Kind:
    """One kind of component."""

    name: str
    hook: str
    protocol: type
    key: str
    """Dotted key of the run file that selects a component of this kind."""
    decides: str
    """What a component of this kind decides, in one line."""
    claims: tuple[Claim[Any], ...] = ()
    reserved: frozenset[str] = frozenset()
    """Option names that belong to the core at ``key``, beside ``name``, which is reserved for every kind."""
    several: bool = False
    """Whether ``key`` holds a list of components."""


_ROWS = (
    Kind(
        name="loss",
        hook="dlm_losses",
        protocol=Loss,
        key="training.loss_impl",
        decides="which positions are scored, with which weight and normaliser",
        claims=(
            IS_LIKELIHOOD_WEIGHTED,
            NEEDS_ADVANTAGE,
            NEEDS_REFERENCE,
            NEEDS_CAUSAL_COPY,
            NEEDS_PAIRS,
            NUM_DRAWS,
            FIGURES,
            RATIO_BOUNDS,
        ),
    ),
    Kind(
        name="noise_schedule",
        hook="dlm_noise_schedules",
        protocol=NoiseSchedule,
        key="training.noise.schedule",
        decides="the mask rate p(t) and its derivative",
        claims=(COVERS_UNIT_INTERVAL,),
    ),
    Kind(
        name="masking",
        hook="dlm_maskings",
        protocol=Masking,
        key="training.noise.masking",
        decides="which positions are corrupted, given p",
        claims=(NUM_VIEWS, IS_INDEPENDENT, FOLLOWS_RATE, NEEDS_TRACE),
    ),
    Kind(
        name="noise_type",
        hook="dlm_noise_types",
        protocol=NoiseType,
        key="training.noise.noise_type",
        decides="what stands at a corrupted position",
        claims=(IS_ABSORBING, MAY_WRITE_MASK),
    ),
    Kind(
        name="attention_bias",
        hook="dlm_attention_biases",
        protocol=AttentionBias,
        key="training.block_attention.bias",
        decides="who may see whom; may differ by layer",
        claims=(PREFIX_IS_STATIC, BLOCKS_ARE_INDEPENDENT, NEEDS_CLEAN_COPY),
    ),
    Kind(
        name="remasking",
        hook="dlm_remaskers",
        protocol=Remasker,
        key="sampling.remasking",
        decides="which predictions are kept at a step, which go back to mask",
        claims=(RESPECTS_QUOTA, NEEDS_COMMITTED_PREDICTIONS, TAKES_BACK, FOLLOWS_PREDICTIONS),
    ),
    Kind(
        name="metric",
        hook="dlm_metrics",
        protocol=Metric,
        key="evaluation.metrics",
        decides="what an item of an evaluation is worth",
        claims=(HIGHER_IS_BETTER, NEEDS),
        several=True,
    ),
    Kind(
        name="reward",
        hook="dlm_rewards",
        protocol=Reward,
        key="rl.rewards",
        decides="what an answer is worth",
        claims=(COLUMNS, RUNS_CODE),
        reserved=frozenset({"weight"}),
        several=True,
    ),
    Kind(
        name="advantage",
        hook="dlm_advantages",
        protocol=Advantage,
        key="rl.advantage",
        decides="how much better than expected an answer is, given the rewards",
        claims=(NEEDS_VALUES, GAMMA),
    ),
    Kind(
        name="optimizer",
        hook="dlm_optimizers",
        protocol=OptimizerFactory,
        key="optim",
        decides="how parameter groups become a torch.optim.Optimizer",
        reserved=frozenset({"lr_scheduler", "warmup_ratio", "warmup_steps"}),
    ),
)

_BY_NAME = {kind.name: kind for kind in _ROWS}

KINDS: Mapping[str, Kind] = MappingProxyType(_BY_NAME)
"""All kinds by name. A row and a protocol are a whole kind: the hook, structuring, ``dlm plugins``, the reference, the
contract tests and a package to start from follow.

What can be added: ``testing/<name>_properties.py`` (properties to try), ``template/components/<name>.py.template`` (a
better start); and, for type checkers, the protocol's export from ``dlm_plugins`` and its classes in ``hookspecs.py``
and ``testing/contract_classes.py``.
"""
