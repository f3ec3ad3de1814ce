"""Packed conversations cannot see each other: changing one moves no other, through the real collator and objective."""

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from dlm.data.batch import Batch
from dlm.training.engine import Engine

BIASES: dict[str, dict[str, Any]] = {
    "full": {},
    "block": {"training.block_attention": {"enabled": True, "block_length": 4}},
    "block_causal": {"training.block_attention": {"enabled": True, "block_length": 4, "bias": "block_causal"}},
    "alternating": {"training.block_attention": {"enabled": True, "block_length": 4, "bias": "alternating"}},
}


def packed_batch(engine: Engine) -> Batch:
    (batch,) = next(iter(engine.data.loader.steps())).micro_batches
    return batch


def hidden_states(engine: Engine, batch: Batch, *, changed: tuple[int, int] | None = None) -> Tensor:
    """(B, L, H) under the noise of step 0, with every token of one document (row, number) replaced."""
    noised = engine.step.forward_process(batch, step=0, num_rows=8)
    if changed is not None:
        row, number = changed
        here = torch.zeros_like(batch.eligible)
        here[row] = batch.document_id[row] == number
        other = torch.where(here, (batch.input_ids + 57) % 256 + 2, batch.input_ids)
        noisy = torch.where(here & ~noised.corrupted, other, noised.noisy_ids)
        noised = attrs.evolve(noised, clean=attrs.evolve(batch, input_ids=other), noisy_ids=noisy)
    with torch.no_grad():
        return engine.step.objective._states(noised).noisy


@pytest.mark.parametrize("bias", list(BIASES))
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_changing_one_document_moves_no_other(bench, implementation: str, bias: str) -> None:
    changes = {"dataset.pack": True, "training.batch_size": 8, "model.attn_implementation": implementation}
    engine = bench.engine({**changes, **BIASES[bias]})
    batch = packed_batch(engine)
    before = hidden_states(engine, batch)
    num_neighbours = 0
    for row, documents in enumerate(batch.document_id.tolist()):
        for number in set(documents) - {-1}:
            moved = (hidden_states(engine, batch, changed=(row, number)) != before).any(dim=-1)
            own = batch.document_id == number
            own[[other for other in range(len(own)) if other != row]] = False
            assert moved[own].any()
            # Padding is read by nobody; its own states are of no interest.
            assert not moved[~own & (batch.document_id >= 0)].any()
            num_neighbours += len(set(documents) - {-1}) - 1
    assert num_neighbours > 0


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_restarting_positions_alone_would_leak(bench, implementation: str) -> None:
    """The same batch without isolation, positions still restarting: the proof above can tell."""
    engine = bench.engine({"dataset.pack": True, "training.batch_size": 8, "model.attn_implementation": implementation})
    batch = packed_batch(engine)
    leaky = Leaky(**{field.name: getattr(batch, field.name) for field in attrs.fields(Batch)})
    leaky = attrs.evolve(leaky, isolate_documents=False)
    row = next(k for k, documents in enumerate(batch.document_id.tolist()) if len(set(documents) - {-1}) > 1)
    moved = (hidden_states(engine, leaky, changed=(row, 0)) != hidden_states(engine, leaky)).any(dim=-1)
    assert moved[row][batch.document_id[row] == 1].any()


@attrs.frozen(kw_only=True, eq=False)
class Leaky(Batch):
    """Positions restart, attention does not."""

    @property
    def position_ids(self) -> Tensor:
        return self.position


# The eager attention of transformers sums its softmax in float32, over rows of another length here and there.
@pytest.mark.parametrize(("implementation", "tolerance"), [("sdpa", 1e-9), ("eager", 3e-6)])
def test_a_packed_document_is_seen_as_if_it_were_alone(bench, implementation: str, tolerance: float) -> None:
    engine = bench.engine({"dataset.pack": True, "training.batch_size": 8, "model.attn_implementation": implementation})
    batch = packed_batch(engine)
    noised = engine.step.forward_process(batch, step=0, num_rows=8)
    packed = hidden_states(engine, batch)
    for row, documents in enumerate(batch.document_id.tolist()):
        for number in set(documents) - {-1}:
            here = batch.document_id[row] == number
            with torch.no_grad():
                alone = engine.step.objective.body(input_ids=noised.noisy_ids[row][here][None]).last_hidden_state[0]
            torch.testing.assert_close(packed[row][here], alone, rtol=1e-9, atol=tolerance)
