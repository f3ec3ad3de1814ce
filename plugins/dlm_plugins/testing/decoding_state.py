"""Decoding states for remaskers: predictions from real logits, every quantity by its definition."""

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from dlm_plugins.draws import Draws, KeyedDraws
from dlm_plugins.testing.choices import Choices, sized_cases

MASK_ID = 0
_NUM_IDS = 6
_SCALES = (1.0, 0.0, 200.0)


@attrs.frozen(kw_only=True, eq=False)
class ReferenceState:
    """A ``DecodingState`` of B rows and K positions, computed from full logits in their own precision."""

    all_logits: Tensor
    """(B, K, V) float32 or float64, as what is computed from it."""
    masked: Tensor
    committed_ids: Tensor
    committed_confidence: Tensor
    committed_step: Tensor
    quota: Tensor
    step: int
    num_steps: int
    row_index: Tensor
    """(B,) int64."""
    predicts_committed: bool
    """Whether candidates and confidence are given at committed positions too."""
    seed: int = 0

    @property
    def candidates(self) -> Tensor:
        """(B, K) int64: the likeliest id; the id that stands there where nothing was predicted."""
        return torch.where(self._predicted, self.all_logits.argmax(-1), self.committed_ids)

    @property
    def log_probability(self) -> Tensor:
        """(B, K): log-probability of the candidate; -inf where nothing was predicted."""
        return torch.where(self._predicted, self.all_logits.log_softmax(-1).amax(-1), -torch.inf)

    @property
    def confidence(self) -> Tensor:
        """(B, K): probability of the candidate; -inf where nothing was predicted."""
        return torch.where(self._predicted, self.all_logits.softmax(-1).amax(-1), -torch.inf)

    @property
    def entropy(self) -> Tensor:
        """(B, K): entropy of the prediction in nats."""
        entropy: Tensor = torch.special.entr(self.all_logits.softmax(-1)).sum(-1)
        return entropy

    @property
    def margin(self) -> Tensor:
        """(B, K): probability of the first minus that of the second id."""
        first, second = self.all_logits.softmax(-1).topk(2).values.unbind(-1)
        return first - second

    @property
    def draws(self) -> Draws:
        """Keyed by row and step."""
        return KeyedDraws(seed=self.seed, step=self.step, rows=self.row_index, length=self.masked.shape[1])

    @property
    def _predicted(self) -> Tensor:
        return torch.ones_like(self.masked) if self.predicts_committed else self.masked

    @property
    def generated(self) -> Tensor:
        """(B, K) bool: positions that were committed in this block, and may be taken back."""
        return ~self.masked & (self.committed_step >= 0)

    def take(self, rows: list[int]) -> "ReferenceState":
        """Some of the rows, in this order."""
        fields = [field.name for field in attrs.fields(type(self)) if isinstance(getattr(self, field.name), Tensor)]
        return attrs.evolve(self, **{name: getattr(self, name)[rows] for name in fields})

    def to(self, device: str) -> "ReferenceState":
        """The rows on another device."""
        fields = [field.name for field in attrs.fields(type(self)) if isinstance(getattr(self, field.name), Tensor)]
        return attrs.evolve(self, **{name: getattr(self, name).to(device) for name in fields})


def decoding_states(*, predicts_committed: bool) -> st.SearchStrategy[ReferenceState]:
    """Up to 3 rows of up to 8 positions: given, committed and masked ones, ties, zeros and ones, any quota and step."""

    def make(choices: Choices, num_rows: int, length: int) -> ReferenceState:
        num_steps = choices.randint(1, 4)
        step = choices.randrange(num_steps)
        generator = choices.generator()
        # Scale 0 makes all predictions equal, scale 200 makes confidence exactly 1 and log-probabilities underflow.
        scales = torch.tensor([choices.choice(_SCALES) for _ in range(num_rows)], dtype=torch.float64)
        logits = torch.randn(num_rows, length, _NUM_IDS, generator=generator, dtype=torch.float64)
        dtype = choices.choice((torch.float32, torch.float64))
        masked = torch.stack([choices.bits(length, choices.choice((0.7, 0.3, 1.0))) for _ in range(num_rows)])
        # Positions that are not masked were given (-1) or committed at an earlier step of the block.
        committed_step = torch.randint(-1, max(step, 1), masked.shape, generator=generator).clamp(max=step - 1)
        return ReferenceState(
            all_logits=(logits * scales[:, None, None]).to(dtype),
            masked=masked,
            committed_ids=torch.where(masked, MASK_ID, torch.randint(1, _NUM_IDS, masked.shape, generator=generator)),
            committed_confidence=torch.rand(masked.shape, generator=generator).to(dtype) * ~masked,
            committed_step=torch.where(masked, -1, committed_step),
            quota=torch.tensor([choices.randint(0, length) for _ in range(num_rows)]),
            step=step,
            num_steps=num_steps,
            row_index=torch.randperm(100, generator=generator)[:num_rows],
            predicts_committed=predicts_committed,
            seed=choices.randrange(1000),
        )

    return sized_cases(make, max_length=8)
