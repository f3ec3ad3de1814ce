"""Metrics of likelihoods: nats a token or bits a byte (ELBO), and accuracy in multiple choice."""

from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor

from dlm_plugins import Choice, MetricRequest

_UNITS: Mapping[str, Callable[[Choice], float]] = {
    "token": lambda choice: choice.num_tokens,
    "byte": lambda choice: max(choice.num_bytes, 1) * log(2),
    "text": lambda choice: 1.0,
}


@attrs.frozen(kw_only=True)
class Elbo:
    """Negative log-likelihood of the right choice, or the bound on it: nats a token, bits a byte, or nats a text."""

    needs: ClassVar[Literal["likelihood"]] = "likelihood"
    higher_is_better: ClassVar[bool] = False

    per: Literal["token", "byte", "text"] = attrs.field(
        default="token", validator=attrs.validators.in_(_UNITS), metadata={"help": "token, byte (in bits) or text."}
    )

    def score(self, request: MetricRequest) -> Tensor:
        """Of each item; 0 where nothing was scored."""
        chosen = [item.choices[item.right_choice] if item.choices else None for item in request.items]
        unit = _UNITS[self.per]
        values = [0.0 if each is None else -each.log_likelihood / unit(each) for each in chosen]
        return torch.tensor(values, dtype=torch.float64)


@attrs.frozen(kw_only=True)
class Accuracy:
    """1 where the most likely choice is the right one. The first of equally likely ones counts as chosen."""

    needs: ClassVar[Literal["likelihood"]] = "likelihood"

    per: Literal["token", "byte", "text"] = attrs.field(
        default="text",
        validator=attrs.validators.in_(_UNITS),
        metadata={"help": "What log-likelihoods are divided by before they are compared: token, byte or text (1)."},
    )

    def score(self, request: MetricRequest) -> Tensor:
        """1 or 0 for each item; 0 where nothing was scored."""
        return torch.tensor([float(self._is_right(item.choices, item.right_choice)) for item in request.items]).double()

    def _is_right(self, choices: Sequence[Choice], right: int) -> bool:
        unit = _UNITS[self.per]
        values = [choice.log_likelihood / unit(choice) for choice in choices]
        return bool(values) and values.index(max(values)) == right
