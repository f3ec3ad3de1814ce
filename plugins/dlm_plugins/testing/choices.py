"""Random contents of small cases: hypothesis chooses the sizes and a seed, the seed everything else.

So a case costs three draws, contents vary fully even in few examples, and what shrinks is what makes a case easy to
read: the numbers of rows and positions.
"""

import random
from collections.abc import Callable
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

Case = TypeVar("Case")


class Choices(random.Random):
    """Python's generator, with tensors."""

    def bits(self, length: int, probability: float = 0.5) -> Tensor:
        """(length,) bool, each True with this probability."""
        return torch.tensor([self.random() < probability for _ in range(length)], dtype=torch.bool)

    def flip(self) -> bool:
        """True or False."""
        return self.random() < 0.5

    def generator(self) -> torch.Generator:
        """A generator of torch, seeded from this one."""
        return torch.Generator().manual_seed(self.getrandbits(32))


def sized_cases(
    make: Callable[[Choices, int, int], Case], *, max_rows: int = 3, max_length: int = 9
) -> st.SearchStrategy[Case]:
    """Cases ``make(choices, num_rows, length)`` of all sizes up to the given ones."""
    seeds = st.integers(0, 2**20 - 1)
    sizes = st.integers(1, max_rows), st.integers(1, max_length)
    return st.builds(lambda rows, length, seed: make(Choices(seed), rows, length), *sizes, seeds)
