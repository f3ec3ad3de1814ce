"""Tiny models, batches and noise, and an independent way to compute what the objective should say."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor

from dlm.data.batch import Batch, Collator
from dlm.data.rows import Row
from dlm.diffusion.forward_process import ForwardProcess, NoisedBatch
from dlm.diffusion.objective import Attention, DiffusionObjective, same_length
from dlm.diffusion.times import TIME_SAMPLERS, TIME_UNITS
from dlm.diffusion.vocabulary import Vocabulary
from dlm.model.body_and_head import split
from dlm.model.from_scratch import model_from_config
from dlm_plugins.registry import Registry

NUM_IDS = 90
"""Ids the tokenizer knows, 0..89; the embedding has six rows more."""
MASK_ID = 7
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "vocab_size": 96,
    # Large enough that attention is far from uniform, so that masks show.
    "initializer_range": 0.3,
}


@attrs.frozen(kw_only=True)
class Document:
    """Of a row: ``length`` tokens, the last ``answer`` of them eligible (None: all, as in pre-training)."""

    length: int
    answer: int | None = None


def padded(batch: Batch, length: int) -> Batch:
    """The batch with padding up to ``length`` positions, as beside a longer row."""
    missing = length - batch.input_ids.shape[1]
    fills = {"input_ids": 0, "document_id": -1, "position": 0, "eligible": 0, "answer_start": 0, "answer_length": 0}
    longer = {
        name: torch.nn.functional.pad(tensor, (0, missing), value=fill)
        for name, fill in fills.items()
        if (tensor := getattr(batch, name)) is not None
    }
    return attrs.evolve(batch, has_padding=bool((longer["document_id"] < 0).any()), **longer)


class Lab:
    """Builders. Everything depends on the arguments alone."""

    num_ids = NUM_IDS
    mask_id = MASK_ID

    def __init__(self) -> None:
        self.registry = Registry.discover()

    def component(self, kind: str, name: str, **options: Any) -> Any:
        return self.registry.resolve(kind, name).cls(**options)

    def model(self, dtype: torch.dtype = torch.float64, implementation: str = "sdpa", seed: int = 0, **config: Any):
        settings = {"vocab_size": NUM_IDS, "mask_token_id": MASK_ID, "seed": seed}
        model = model_from_config(
            {**SIZES, **config}, dtype=torch.float32, attn_implementation=implementation, **settings
        )
        return model.to(dtype)

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(
            size=NUM_IDS,
            mask_id=MASK_ID,
            special_ids=torch.tensor([0, MASK_ID]),
            starts_word=torch.arange(NUM_IDS) % 3 == 0,
        )

    def row(self, *documents: Document, seed: int = 0) -> Row:
        numbers = np.random.default_rng(seed)
        ids, answers = [], []
        for document in documents:
            ids.append(8 + numbers.integers(0, NUM_IDS - 8, document.length))
            answers.append(document.length if document.answer is None else document.answer)
        lengths = [document.length for document in documents]
        is_sft = any(document.answer is not None for document in documents)
        starts = [length - answer for length, answer in zip(lengths, answers, strict=True)]
        position = np.concatenate([np.arange(length) for length in lengths])
        answer_start = np.repeat(starts, lengths)
        return Row(
            input_ids=np.concatenate(ids).astype(np.int32),
            document_id=np.repeat(np.arange(len(documents)), lengths).astype(np.int32),
            position=position.astype(np.int32),
            eligible=position >= answer_start,
            answer_start=answer_start.astype(np.int32),
            answer_length=np.repeat(answers, lengths).astype(np.int32) if is_sft else None,
        )

    def batch(
        self,
        *rows: Sequence[Document] | None,
        isolate: bool = False,
        max_length: int | None = None,
        first_row: int = 0,
    ) -> Batch:
        """Rows of documents; None is a filler row. Row k of the step always holds the same ids."""
        indices = [-1 if row is None else first_row + number for number, row in enumerate(rows)]
        made = [None if row is None else self.row(*row, seed=k) for k, row in zip(indices, rows, strict=True)]
        longest = max((len(row.input_ids) for row in made if row is not None), default=4)
        batch = Collator(pad_id=0, isolate_documents=isolate)(made, indices, longest)
        return batch if max_length is None else padded(batch, max_length)

    def process(self, **changes: Any) -> ForwardProcess:
        settings: dict[str, Any] = {
            "schedule": self.component("noise_schedule", "uniform"),
            "masking": self.component("masking", "bernoulli"),
            "noise_type": self.component("noise_type", "mask"),
            "sample_times": TIME_SAMPLERS["stratified"],
            "time_unit": TIME_UNITS["sequence"],
            "min_masking_rate": 0.001,
            "region_masking": self.component("masking", "contiguous"),
            "region_probability": 0.0,
            "reweight_cap": None,
            "block_length": 4,
            "vocabulary": self.vocabulary(),
            "seed": 11,
        }
        return ForwardProcess(**{**settings, **changes})

    def noised(self, batch: Batch, *, step: int = 3, num_rows: int | None = None, **changes: Any) -> NoisedBatch:
        return self.process(**changes)(batch, step=step, num_rows=num_rows or len(batch.row_index))

    def objective(
        self,
        model: Any,
        loss: str | Any = "guidelines",
        *,
        bias: Any = None,
        block_length: int = 4,
        implementation: str = "sdpa",
        logit_shift: bool = False,
        padded_length: Callable[[int], int] = same_length,
    ) -> DiffusionObjective:
        parts = split(model)
        return DiffusionObjective(
            parts.body,
            parts.head,
            loss=self.component("loss", loss) if isinstance(loss, str) else loss,
            vocabulary=self.vocabulary(),
            attention=Attention(
                bias=bias or self.component("attention_bias", "full"),
                block_length=block_length,
                num_layers=model.config.num_hidden_layers,
                implementation=implementation,
                padded_length=padded_length,
            ),
            logit_shift=logit_shift,
        )

    def hidden(self, model: Any, noised: NoisedBatch, **settings: Any) -> Tensor:
        """(B, L, H) hidden states the objective scores."""
        with torch.no_grad():
            return self.objective(model, **settings)._states(noised).noisy


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()


@pytest.fixture(scope="session")
def docs() -> Callable[..., list[Document]]:
    """Documents of a row: ``docs(5, 3)`` for pre-training, ``docs((9, 4), (6, 2))`` with answer lengths."""

    def make(*lengths: int | tuple[int, int]) -> list[Document]:
        return [
            Document(length=each) if isinstance(each, int) else Document(length=each[0], answer=each[1])
            for each in lengths
        ]

    return make


@pytest.fixture(scope="session")
def gradients_of() -> Callable[[Any, Tensor], dict[str, Tensor]]:
    """Gradients of a scalar by parameter name; the model's own are cleared."""

    def gradients(model: Any, scalar: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        scalar.backward()
        found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        model.zero_grad()
        return found

    return gradients
