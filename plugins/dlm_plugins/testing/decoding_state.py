"""Decoding states for remaskers: predictions from real logits, every quantity by its definition."""

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor

from dlm_plugins.draws import Draws, KeyedDraws

MASK_ID = 0
_NUM_IDS = 6
_SCALES = (1.0, 0.0, 200.0)


@attrs.frozen(kw_only=True, eq=False)
class ReferenceState:
    """A ``DecodingState`` of B rows and K positions, computed in float64 from full logits."""

    all_logits: Tensor
    """(B, K, V) float64."""
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
        """(B, K) float64: log-probability of the candidate; -inf where nothing was predicted."""
        return torch.where(self._predicted, self.all_logits.log_softmax(-1).amax(-1), -torch.inf)

    @property
    def confidence(self) -> Tensor:
        """(B, K) float64: probability of the candidate; -inf where nothing was predicted."""
        return torch.where(self._predicted, self.all_logits.softmax(-1).amax(-1), -torch.inf)

    @property
    def entropy(self) -> Tensor:
        """(B, K) float64: entropy of the prediction in nats."""
        entropy: Tensor = torch.special.entr(self.all_logits.softmax(-1)).sum(-1)
        return entropy

    @property
    def margin(self) -> Tensor:
        """(B, K) float64: probability of the first minus that of the second id."""
        first, second = self.all_logits.softmax(-1).topk(2).values.unbind(-1)
        return first - second

    @property
    def draws(self) -> Draws:
        """Keyed by row and step."""
        return KeyedDraws(seed=self.seed, step=self.step, rows=self.row_index, length=self.masked.shape[1], block=2)

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


@st.composite
def decoding_states(draw: st.DrawFn, *, predicts_committed: bool) -> ReferenceState:
    """Up to 3 rows of up to 8 positions: given, committed and masked ones, ties, zeros and ones, any quota and step."""
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    num_steps = draw(st.integers(1, 4))
    step = draw(st.integers(0, num_steps - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    # Scale 0 makes all predictions equal, scale 200 makes confidence exactly 1 and log-probabilities underflow.
    scales = torch.tensor([draw(st.sampled_from(_SCALES)) for _ in range(num_rows)], dtype=torch.float64)
    logits = torch.randn(num_rows, length, _NUM_IDS, generator=generator, dtype=torch.float64)
    patterns = [draw(st.integers(0, 2**length - 1)) for _ in range(num_rows)]
    masked = ~torch.tensor([[bool(pattern >> i & 1) for i in range(length)] for pattern in patterns])
    # Positions that are not masked were given (-1) or committed at an earlier step of the block.
    committed_step = (
        torch.randint(-1, max(step, 0), (num_rows, length), generator=generator)
        if step
        else -torch.ones(num_rows, length, dtype=torch.int64)
    )
    return ReferenceState(
        all_logits=logits * scales[:, None, None],
        masked=masked,
        committed_ids=torch.where(masked, MASK_ID, torch.randint(1, _NUM_IDS, masked.shape, generator=generator)),
        committed_confidence=torch.rand(masked.shape, generator=generator).double() * ~masked,
        committed_step=torch.where(masked, -1, committed_step),
        quota=torch.tensor([draw(st.integers(0, length)) for _ in range(num_rows)]),
        step=step,
        num_steps=num_steps,
        row_index=torch.randperm(100, generator=generator)[:num_rows],
        predicts_committed=predicts_committed,
        seed=draw(st.integers(0, 1000)),
    )
