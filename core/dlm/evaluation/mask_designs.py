"""Which masks a text is scored under and their weights: all subsets, exact counts in strata, chain rule, none at all.

The bound on -log p of L tokens is the mean over k = 1..L of the mean over subsets S of k tokens of (L / k) times the
cross-entropy summed over S: the any-order bound, and the integral over t of Bernoulli(t) masks with weight 1/t. A part
is a set of tokens whose subsets are chosen together: all scored tokens, or one block where blocks are scored apart.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from itertools import combinations
from math import comb
from types import MappingProxyType

import attrs
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DRAWS_PER_STRATUM = 2
"""Two, because their difference is what the interval is made of."""
_FEWEST_STRATA_OF_SQRT = 8
"""From this many on, few masked tokens are preferred: fewer strata would sample their large weights too coarsely."""


@attrs.frozen(kw_only=True, eq=False)
class Part:
    """n masks over the L tokens of one part."""

    masked: Bools
    """(n, L): what is hidden."""
    weight: Floats
    """(n, L): what the cross-entropy counts; 0 where it is not asked for."""
    stratum_weight: Floats | None = None
    """(n,): expectation over its stratum of the weight of a draw, as a share of the L tokens: a draw weighs a constant
    cross-entropy c of every token by this times L c on average. None where nothing was drawn: the sum is exact."""


@attrs.frozen(kw_only=True)
class DrawNumbers:
    """Which draws of a text are made, by number, and how they are stratified."""

    first: int
    stop: int
    strata: int

    @classmethod
    def of_text(cls, draws: int) -> "DrawNumbers":
        """All draws of a text that is scored by itself; ``draws`` is even."""
        return cls(first=0, stop=draws, strata=draws // DRAWS_PER_STRATUM)

    def __len__(self) -> int:
        return self.stop - self.first

    @property
    def stratum(self) -> NDArray[np.int64]:
        """(n,) stratum of each draw; draws 2i and 2i + 1 share one."""
        return np.arange(self.first, self.stop) // DRAWS_PER_STRATUM % self.strata


@attrs.frozen(kw_only=True, eq=False)
class PartRequest:
    """What decides the masks of a part: nothing else does, so that two models are asked about the same ones."""

    length: int
    """L, at least 1."""
    key: int
    """Of the text, 64 bits."""
    number: int
    """Of the part in its text, from 0."""
    seed: int
    draws: DrawNumbers
    place: Floats | None = None
    """(n,) in [0, 1): place of the text within each draw's stratum, among the texts of a corpus (a multiple of one over
    their number, ``num_places``); None: anywhere in the stratum."""
    num_places: int = 1


def bound(request: PartRequest) -> Part:
    """The bound: all subsets where they are no more than the draws of the first call, else drawn ones."""
    if 2**request.length - 1 > len(request.draws):
        return drawn_subsets(request)
    if request.draws.first == 0:
        return all_subsets(request.length)
    nothing = np.zeros((0, request.length))
    return Part(masked=nothing.astype(bool), weight=nothing)


def chain_rule(request: PartRequest) -> Part:
    """-log p read left to right: each token with itself and all after it hidden."""
    return Part(masked=np.triu(np.ones((request.length, request.length), dtype=bool)), weight=np.eye(request.length))


def all_masked(request: PartRequest) -> Part:
    """Every token with all of them hidden: one forward, and no bound on anything."""
    return Part(masked=np.ones((1, request.length), dtype=bool), weight=np.ones((1, request.length)))


def nothing_masked(request: PartRequest) -> Part:
    """Every token clean, in one forward: for a model that does not see what it predicts."""
    return Part(masked=np.zeros((1, request.length), dtype=bool), weight=np.ones((1, request.length)))


@attrs.frozen
class Method:
    """A way to score a text."""

    design: Callable[[PartRequest], Part]
    """The masks of a part."""
    is_causal: bool = False
    """Whether a token is predicted as decoders do it, from what precedes it alone, whatever attention the model has."""


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "bound": Method(bound),
        "chain_rule": Method(chain_rule),
        "all_masked": Method(all_masked),
        "autoregressive": Method(nothing_masked, is_causal=True),
    }
)
"""How a text can be scored, by name."""


def all_subsets(length: int) -> Part:
    """The 2^L - 1 subsets with weights 1 / (k C(L, k)): the bound itself."""
    subsets = [chosen for k in range(1, length + 1) for chosen in combinations(range(length), k)]
    masked = np.zeros((len(subsets), length), dtype=bool)
    for row, chosen in enumerate(subsets):
        masked[row, list(chosen)] = True
    size = masked.sum(axis=1)
    weight = np.array([1 / (k * comb(length, k)) for k in size.tolist()])
    return Part(masked=masked, weight=masked * weight[:, None])


def drawn_subsets(request: PartRequest) -> Part:
    """Exact counts k in strata of their distribution, each with a random subset of k tokens."""
    density = _density(request)
    numbers = _numbers(request)
    strata = request.draws.strata
    within = numbers[:, 0] if request.place is None else request.place + numbers[:, 0] / request.num_places
    size = 1 + np.searchsorted(density.cumsum()[:-1], (request.draws.stratum + within) / strata, side="right")
    rank = numbers[:, 1:].argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    masked = rank < size[:, None]
    # The mean over k of s_k / k, s_k the cross-entropy summed over k tokens, with k drawn from the density.
    weight = 1 / (size * density[size - 1])
    return Part(
        masked=masked,
        weight=masked * weight[:, None],
        stratum_weight=_stratum_weights(density, strata)[request.draws.stratum],
    )


def _density(request: PartRequest) -> Floats:
    """(L,) probability of each count: uniform, or in proportion to k^-1/2, where the bound varies most."""
    exponent = -0.5 if request.draws.strata >= _FEWEST_STRATA_OF_SQRT else 0.0
    density = np.arange(1, request.length + 1, dtype=np.float64) ** exponent
    return np.asarray(density / density.sum())


def _stratum_weights(density: Floats, strata: int) -> Floats:
    """(strata,): mean of 1 / (L q(k)) over each stratum of the distribution q of counts; 1 throughout for a uniform."""
    edges = np.concatenate([[0.0], density.cumsum()])
    edges[-1] = 1.0
    low, high = np.arange(strata) / strata, np.arange(1, strata + 1) / strata
    overlap = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    return np.asarray((overlap.clip(min=0) / density[:, None]).sum(axis=0) * strata / len(density))


def _numbers(request: PartRequest) -> Floats:
    """(n, 1 + L) in [0, 1): a number for each draw, then one for each token."""
    draws = np.arange(request.draws.first, request.draws.stop, dtype=np.uint64)
    start = _mixed(_word(f"{request.seed}:{request.number}:{request.key}") + (draws + _ONE) * _GOLDEN)
    counter = np.arange(1, request.length + 2, dtype=np.uint64) * _GOLDEN
    return _unit(_mixed(start[:, None] + counter))


def places_of(keys: NDArray[np.uint64], draws: DrawNumbers, seed: int) -> Floats:
    """(texts, n) in [0, 1): for each draw, the places of a corpus's texts in a random order, over their number.

    The order of a draw depends on the keys alone. Texts with equal keys are equal texts, so that ties do not matter.
    """
    numbers = np.arange(draws.first, draws.stop, dtype=np.uint64)
    start = _mixed(_word(f"{seed}:places") + (numbers + _ONE) * _GOLDEN)
    words = _mixed(start ^ _mixed(keys[:, None] + _GOLDEN))
    order = words.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    return np.asarray(order / len(keys))


# The finaliser of SplitMix64 (Steele, Lea and Flood 2014) over counters: a number depends on its key and place alone,
# and costs a tenth of what small tensors of Philox would.
_ONE = np.uint64(1)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))


def _word(key: str) -> np.uint64:
    return np.uint64(int.from_bytes(blake2b(f"evaluation:{key}".encode(), digest_size=8).digest(), "little"))


def _unit(words: NDArray[np.uint64]) -> Floats:
    """In [0, 1), with 53 bits."""
    return np.asarray((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
