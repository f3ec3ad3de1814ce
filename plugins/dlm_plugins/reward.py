"""Contract of a reward: what an answer is worth, from its text, its ids, whether it ended, and its row's columns."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs
from torch import Tensor

from dlm_plugins.claims import Claim

COLUMNS = Claim[dict[str, Any]](
    "columns",
    {},
    "Columns of the data set that are read, each with an example of what it holds. Rows without one are refused before "
    "anything is sampled; the contract tests fill it with the example.",
)
RUNS_CODE = Claim(
    "runs_code",
    False,
    "Runs what the model wrote. The core refuses it unless --allow-code-execution is given.",
)


@attrs.frozen(kw_only=True)
class RewardItem:
    """An answer to be judged, as a model wrote it: any text must be taken."""

    prompt: str = ""
    """What the model was given."""
    answer: str = ""
    """What the model wrote after the prompt, up to its end, without special tokens."""
    answer_ids: Sequence[int] = ()
    """The ids behind it, the end of the text included where it was written."""
    ended: bool = True
    """Whether the end of the text was written; False: the answer was cut off at its greatest length."""
    columns: Mapping[str, Any] = attrs.field(factory=dict)
    """The row of the data set, column by column, as it was read."""


@attrs.frozen(kw_only=True)
class RewardRequest:
    """What a reward is asked about: B answers."""

    items: Sequence[RewardItem]
    """B of them; there may be none."""


@runtime_checkable
class Reward(Protocol):
    """Judges answers. Several rewards of a run are added up, each times its ``weight``, a key of the core's."""

    def score(self, request: RewardRequest) -> Tensor:
        """(B,) float32, finite: what each answer is worth.

        Pure, and an answer's score depends on its own item alone: nothing is drawn, and no other answer matters.

        Raises:
            ValueError: a row cannot be judged (its column is missing, or does not hold what it should), with the
                reason. The core says which row it was.
        """
        ...
