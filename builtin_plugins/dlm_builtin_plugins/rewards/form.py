"""Rewards for the form of an answer: whether a pattern (regular expression) matches, whether it ended, its length."""

from typing import Any

import attrs
import torch
from torch import Tensor

from dlm_builtin_plugins.answer_checks import compiled, matches_pattern
from dlm_plugins import RewardRequest


def _is_pattern(_: object, attribute: Any, value: str) -> None:
    compiled(value)


@attrs.frozen(kw_only=True)
class PatternReward:
    r"""1 where a regular expression matches anywhere in the answer, else 0; ``\A`` and ``\z`` tie it to the ends.

    Expressions are RE2's: Python's without back-references and look-around, in time linear in the answer. The metric
    ``pattern`` asks the same.
    """

    pattern: str = attrs.field(
        default=r"\S",
        validator=_is_pattern,
        metadata={"help": "Regular expression; by default anything but white space."},
    )

    def score(self, request: RewardRequest) -> Tensor:
        """Search each answer."""
        return torch.tensor([float(matches_pattern(item.answer, self.pattern)) for item in request.items])


@attrs.frozen(kw_only=True)
class EndsReward:
    """1 for an answer that came to its end, 0 for one that was cut off at its greatest length."""

    def score(self, request: RewardRequest) -> Tensor:
        """Look at the end."""
        return torch.tensor([float(item.ended) for item in request.items])


@attrs.frozen(kw_only=True)
class LengthReward:
    """1 for an answer of at most ``target`` tokens, 0 from ``limit`` tokens on, and a straight line between them."""

    target: int = attrs.field(
        default=256, validator=attrs.validators.ge(0), metadata={"help": "Tokens up to which the score is 1."}
    )
    limit: int = attrs.field(
        default=1024, validator=attrs.validators.gt(0), metadata={"help": "Tokens from which it is 0, above target."}
    )

    def __attrs_post_init__(self) -> None:
        if self.limit <= self.target:
            raise ValueError(f"limit ({self.limit}) must be above target ({self.target})")

    def score(self, request: RewardRequest) -> Tensor:
        """Count the tokens, the end included."""
        length = torch.tensor([float(len(item.answer_ids)) for item in request.items])
        return ((self.limit - length) / (self.limit - self.target)).clamp(0, 1)
