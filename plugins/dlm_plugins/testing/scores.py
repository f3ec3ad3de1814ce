"""What metrics and rewards have in common: a finite number for each answer, from that answer alone, always the same."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from dlm_plugins.testing.property_tools import require_equal, require_tensor, returned

Item = TypeVar("Item")
Score = Callable[[Sequence[Item]], Tensor]

TEXTS = ("", " ", "7", "The answer is 7.", "seven", "a b a b", "\u7b54\u6848\u662f7\u3002", "\0\ud800", "**7**", "7/0")


def require_scores(found: object, count: int, dtype: torch.dtype, what: str) -> Tensor:
    """What ``score`` returned for so many items: (count,), all finite."""
    scores = returned(found, Tensor, "score")
    require_tensor(scores, "score", torch.Size([count]), dtype)
    wrong = ~scores.isfinite()
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise AssertionError(f"{what} {first} is worth {float(scores[first])}, which is not finite")
    return scores


def require_alone(score: Score[Item], items: Sequence[Item], what: str) -> None:
    """An item's number is the same whatever other items there are, and in whatever order."""
    together = score(items)
    alone = torch.cat([score((item,)) for item in items])
    require_equal(together, alone, f"an {what} is worth something else among others")
    require_equal(score(items[::-1]), together.flip(0), f"the order of the {what}s matters")


def require_same_again(score: Score[Item], items: Sequence[Item]) -> None:
    """No random numbers, and the same answer when asked again."""
    states = torch.get_rng_state(), random.getstate()
    first = score(items)
    if not torch.equal(torch.get_rng_state(), states[0]) or random.getstate() != states[1]:
        raise AssertionError("draws from a global random generator")
    require_equal(score(items), first, "answers differently when asked the same again")
