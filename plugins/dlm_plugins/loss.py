"""Contract of a loss: what it sees of a batch, which positions it scores, with which weight, and its normaliser."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor
from torch.nn.functional import pad

from dlm_plugins.claims import Claim

IS_LIKELIHOOD_WEIGHTED = Claim(
    "is_likelihood_weighted",
    True,
    "The weights undo the mask rate: over uniform time and its masks, total / normaliser is in expectation the mean "
    "cross-entropy of the eligible positions. False for focal and other losses that weigh on purpose.",
)

NEEDS_ADVANTAGE = Claim(
    "needs_advantage",
    False,
    "Learns from rewards: scores rollouts by how much better or worse than expected they are (training.mode: rl).",
)
NEEDS_REFERENCE = Claim(
    "needs_reference",
    False,
    "Compares with a frozen model, whose log-probabilities the view then has.",
)
NEEDS_CAUSAL_COPY = Claim(
    "needs_causal_copy",
    False,
    "Scores next tokens too: a clean copy of each row runs beside the noisy one, causal and apart from it.",
)
NEEDS_PAIRS = Claim(
    "needs_pairs",
    False,
    "Learns from pairs of answers, a chosen and a rejected one (training.mode: preference).",
)
NUM_DRAWS = Claim(
    "num_draws",
    1,
    "Times and masks of their own that each row is seen with in a step, for estimates of a likelihood.",
)
FIGURES = Claim[tuple[str, ...]](
    "figures",
    (),
    "Names of further sums in ``LossOutput.figures``, which are logged as means.",
)
RATIO_BOUNDS = Claim(
    "ratio_bounds",
    (0.0, float("inf")),
    "Ratios of new to old probability beyond these are clipped: what share of them is, is reported.",
)


class LossView(Protocol):
    """What a loss sees of one micro-batch: B rows, L positions, V vocabulary, N scored positions.

    The model has run; the vocabulary projection has not: it runs at the positions a loss asks for, in chunks, with
    cross-entropy in float32.
    """

    @property
    def noisy_ids(self) -> Tensor:
        """(B, L) int64: what the model saw."""
        ...

    @property
    def clean_ids(self) -> Tensor:
        """(B, L) int64: what should stand there."""
        ...

    @property
    def mask_id(self) -> int:
        """Id of the mask token."""
        ...

    @property
    def corrupted(self) -> Tensor:
        """(B, L) bool: positions the noise fell on."""
        ...

    @property
    def scored(self) -> Tensor:
        """(B, L) bool: positions that count: all corrupted ones, unless the masking hides some only as context."""
        ...

    @property
    def num_views(self) -> Tensor:
        """(B, L) float32, at least 1: views of this row in the step. This one has a share of 1 / num_views, so that a
        row weighs the same however many views it has."""
        ...

    @property
    def eligible(self) -> Tensor:
        """(B, L) bool: positions the noise could have fallen on (real tokens; in fine-tuning, of the answers only)."""
        ...

    @property
    def p_mask(self) -> Tensor:
        """(B, L) float32 in [0, 1]: probability with which each position is scored; 0 where it is not eligible."""
        ...

    @property
    def weight(self) -> Tensor:
        """(B, L) float32: min(1 / p_mask, reweight_cap), 0 where p_mask is 0."""
        ...

    @property
    def t(self) -> Tensor:
        """(B, L) float32 in [0, 1]: diffusion time."""
        ...

    @property
    def rate(self) -> Tensor:
        """(B, L) float32 in [0, 1]: max(p(t), min_masking_rate), the mask rate the noise was drawn with."""
        ...

    @property
    def rate_derivative(self) -> Tensor:
        """(B, L) float32, at least 0: dp/dt of the schedule at t, not clipped."""
        ...

    @property
    def answer_length(self) -> Tensor | None:
        """(B, L) int64: number of eligible positions in the document each position belongs to; None in pre-training.

        The built-in losses average over tokens in pre-training; in fine-tuning over each answer, then over the answers.
        """
        ...

    @property
    def document_id(self) -> Tensor:
        """(B, L) int64: number of the document in its row, from 0; -1 on padding."""
        ...

    @property
    def columns(self) -> Mapping[str, Tensor]:
        """(B,) float32 each: further numeric columns of the data set, by name; none where rows are packed."""
        ...

    @property
    def row_index(self) -> Tensor:
        """(B,) int64: which row of the global step batch this is a view of; -1 for a row of nothing but padding."""
        ...

    @property
    def advantage(self) -> Tensor | None:
        """(B, L) float32: how much better than expected a rollout was; None where nothing is learned from rewards."""
        ...

    @property
    def group_advantage(self) -> Tensor | None:
        """(B, G) float32: the mean advantages of all G answers to the prompt of each row, its own among them."""
        ...

    @property
    def old_log_probability(self) -> Tensor | None:
        """(B, L) float32: what ``log_probabilities`` said when the rollout was drawn, wherever this view scores;
        None: the model is still the one that drew it."""
        ...

    @property
    def reference_log_probability(self) -> Tensor | None:
        """(B, L) float32: what ``log_probabilities`` would say of a frozen model, wherever this view scores; None:
        there is none."""
        ...

    @property
    def pair(self) -> Tensor | None:
        """(B,) int64: which pair of answers a row belongs to, not falling; -1 for a row of nothing but padding. None
        where there are no pairs. Both answers are there, with the same draws."""
        ...

    @property
    def is_chosen(self) -> Tensor | None:
        """(B,) bool: whether the row is the better one of its pair; None where there are no pairs."""
        ...

    def weighted_cross_entropy(self, where: Tensor, weight: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over ``where`` of weight x cross-entropy with the clean id: a float32 scalar, differentiable.

        Value and gradient come from one chunked pass; logits of all positions never exist. Smoothing mass goes to real
        vocabulary ids only: not to padded rows of the embedding, nor to the mask.

        ``where`` (B, L) bool are the N positions to score, ``weight`` is (B, L) float32 and gets no gradient,
        ``label_smoothing`` is in [0, 1).
        """
        ...

    def next_token_cross_entropy(self, where: Tensor, weight: Tensor) -> Tensor:
        """Sum over ``where`` of weight x cross-entropy of the clean id given those before it: a float32 scalar.

        For losses that claim ``needs_causal_copy``; differentiable, in chunks as above. Positions that nothing precedes
        in their text are left out.
        """
        ...

    def log_probabilities(self, where: Tensor) -> Tensor:
        """Log-probability of the clean id at each position of ``where`` (B, L) bool, row by row: (N,) float32.

        For losses that are not linear in the cross-entropy (focal, policy gradients). Differentiable: recomputed chunk
        by chunk in the backward pass. Of rollouts it is the log-probability under the law that drew them: at their
        temperature, without the mask and other ids that are never written.
        """
        ...

    def logits(self, where: Tensor) -> Tensor:
        """Logits at ``where`` (B, L) bool: (N, V), float32 or wider. The last resort, and it costs what it costs."""
        ...


@attrs.frozen(eq=False)
class LossOutput:
    """A sum and the count it is to be divided by.

    The core divides the sum of ``total`` by the sum of ``normaliser`` over the accumulation window and all ranks.
    """

    total: Tensor
    """Scalar float32, differentiable. With nothing scored: a zero connected to the graph."""
    normaliser: Tensor
    """Scalar int64 or float32, at least 0, without gradient: a count of tokens, answers or rows. It may be 0 only where
    ``total`` is 0."""
    figures: Mapping[str, Tensor] = attrs.field(factory=dict)
    """Scalar float32 each, without gradient, by the names that are claimed: sums over what ``normaliser`` counts."""


@runtime_checkable
class Loss(Protocol):
    """The training objective of one micro-batch."""

    def __call__(self, view: LossView) -> LossOutput:
        """Score the micro-batch: a sum over its positions, and the count to divide it by."""
        ...


def runs_of(numbers: Tensor) -> Tensor:
    """(B,) int64: place, from 0, of the run of equal neighbours that each of ``numbers`` (B,) belongs to.

    The views of a row are neighbours, and so are the rows of a pair.
    """
    return pad((numbers[1:] != numbers[:-1]).long().cumsum(dim=0), (1, 0))
