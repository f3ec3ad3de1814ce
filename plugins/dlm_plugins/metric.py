"""Contract of a metric: what one item of an evaluation is worth, from texts, ids, likelihoods and references."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor

from dlm_plugins.claims import Claim

HIGHER_IS_BETTER = Claim(
    "higher_is_better", True, "More is better; False for a loss. Tables say so, nothing is turned."
)
NEEDS = Claim(
    "needs",
    "generation",
    'What the model is asked for: "generation", an answer to each prompt, or "likelihood", that of each choice.',
)


@attrs.frozen(kw_only=True)
class Choice:
    """A text whose likelihood was asked for, after its prompt."""

    text: str
    """What was scored, without its prompt."""
    log_likelihood: float
    """In nats, or a bound on it; finite."""
    num_tokens: int
    """At least 1."""

    @property
    def num_bytes(self) -> int:
        """Of the text in UTF-8."""
        return len(self.text.encode("utf-8", "replace"))


@attrs.frozen(kw_only=True)
class MetricItem:
    """One item. What a metric does not need is empty."""

    prompt: str = ""
    """What the model was given."""
    answer: str = ""
    """What the model wrote after the prompt."""
    answer_ids: Sequence[int] = ()
    """The ids behind it."""
    references: Sequence[str] = ()
    """Answers that are right, at least one where the data has any."""
    choices: Sequence[Choice] = ()
    """Texts with likelihoods; a text that is scored for itself is the only choice."""
    right_choice: int = 0
    """Which of the choices is right, from 0."""


@attrs.frozen(kw_only=True)
class MetricRequest:
    """What a metric is asked about: B items."""

    items: Sequence[MetricItem]
    """B of them; there may be none."""


@runtime_checkable
class Metric(Protocol):
    """A number for each item. What a report shows is the mean over the items, with its interval."""

    def score(self, request: MetricRequest) -> Tensor:
        """(B,) float64, finite: what each item is worth.

        Pure, and an item's number depends on that item alone. Answers come from a model: any text must be taken.
        """
        ...
