"""Cross-entropy of a model at masked positions of rows, batched by tokens, under the attention it was trained with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from dlm.config.eval_options import DEFAULT_BATCH_TOKENS
from dlm.data.batch import Batch, Collator
from dlm.data.rows import Row
from dlm.diffusion.objective import Attention
from dlm.errors import UserInputError
from dlm.evaluation.mask_designs import Bools, Floats
from dlm.evaluation.static_prefix import StaticPrefix, static_length
from dlm.model.attention import attending_with, for_inference
from dlm.model.body_and_head import split
from dlm.sampling.decoder import Decoder
from dlm.sampling.resolve import bias_of, mask_id_of
from dlm_plugins import AttentionBias, MaskFunction, SequenceLayout
from dlm_plugins.attention_bias import blocks_are_separate

_ONE_BLOCK = 1 << 30
_CHUNK_ELEMENTS = 1 << 24
"""Most logits that exist at once: 64 MiB in float32."""


@attrs.frozen(kw_only=True, eq=False)
class Job:
    """One row of T ids, to be run under n masks."""

    row: Row
    masked: Bools
    """(n, T): what is hidden."""
    scored: Bools
    """(n, T): where the cross-entropy is asked for: hidden, unless the scorer reads as decoders do."""


@attrs.frozen(kw_only=True, eq=False)
class Scores:
    """What the model says at the scored positions of a job; (n, T) each, 0 elsewhere."""

    cross_entropy: Floats
    """float64, in nats, computed in float32 or wider; mask and unused ids are left out of the softmax."""
    correct: Bools
    """Whether the most probable id is the right one."""
    confidence: Floats
    """Probability of the most probable id."""

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "Scores":
        """To be filled."""
        return cls(cross_entropy=np.zeros(shape), correct=np.zeros(shape, dtype=bool), confidence=np.zeros(shape))


@attrs.frozen(kw_only=True, eq=False)
class Scorer:
    """A model as evaluation asks it."""

    body: nn.Module
    head: nn.Linear
    attention: Attention
    decoder: Decoder
    """The same model for rows behind a context that stays as it is."""
    logit_shift: bool
    blocks_from_start: bool
    """Whether blocks count from the start of a text, not from the answer's."""
    excluded: Tensor
    """(S,) int64: ids that stand for no text, the mask among them."""
    mask_id: int
    batch_tokens: int

    @classmethod
    def of(cls, model: Any, *, num_ids: int | None = None, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> "Scorer":
        """Take ``model`` apart.

        Args:
            model: a diffusion language model with a linear head, on its device.
            num_ids: ids of the tokenizer; rows of the embedding beyond them stand for no text. None: all are ids.
            batch_tokens: most positions in one forward.

        Raises:
            ModelError: a model without a mask, or one that has never seen it.
        """
        parts, config = split(model), model.config
        text_config = config.get_text_config()
        mask_id, size = mask_id_of(config, None), text_config.vocab_size
        bias = bias_of(config, None)
        unused = range(size if num_ids is None else num_ids, size)
        return cls(
            body=parts.body,
            head=parts.head,
            attention=Attention(
                bias=bias,
                block_length=getattr(config, "block_length", None) or _ONE_BLOCK,
                num_layers=text_config.num_hidden_layers,
                implementation=for_inference(text_config._attn_implementation),
            ),
            decoder=Decoder.of(model, bias),
            logit_shift=bool(getattr(config, "logit_shift", False)),
            blocks_from_start=getattr(config, "block_origin", None) == "document",
            excluded=torch.tensor(sorted({mask_id, *unused}), device=parts.head.weight.device),
            mask_id=mask_id,
            batch_tokens=batch_tokens,
        )

    @property
    def causal(self) -> "Scorer":
        """The same model as a decoder: each position sees itself and those before it, and predicts the next one."""
        return attrs.evolve(
            self,
            attention=attrs.evolve(self.attention, bias=_Earlier()),
            decoder=attrs.evolve(self.decoder, bias=_Earlier(), shift=1),
            logit_shift=True,
        )

    @property
    def bias(self) -> AttentionBias:
        """Who sees whom."""
        return self.attention.bias

    def parts_of(self, row: Row) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        """Positions of a row's eligible tokens, apart where their masks do not matter to each other.

        Blocks that see each other clean, or not at all, are scored apart: all of them in the same forward.
        """
        eligible = row.eligible.nonzero()[0]
        if not blocks_are_separate(self.bias):
            return [eligible]
        block = (row.position - row.answer_start) // self.attention.block_length
        place = np.stack([row.document_id[eligible], block[eligible]])
        starts = (np.diff(place, axis=1) != 0).any(axis=0).nonzero()[0] + 1
        return list(np.split(eligible, starts))

    def score(
        self, jobs: Sequence[Job], *, isolate_documents: bool = False, on_rows: Callable[[int], None] | None = None
    ) -> list[Scores]:
        """Run all masks of all jobs.

        Args:
            jobs: in any order; what one gets does not depend on the others.
            isolate_documents: whether documents of one row are hidden from each other.
            on_rows: called after each forward with the number of rows that went through.

        Raises:
            UserInputError: a text that holds the mask token, or an id that stands for no text.
        """
        for job in jobs:
            self._check(job.row)
        scores = [Scores.empty(job.masked.shape) for job in jobs]
        collate = Collator(pad_id=0, isolate_documents=isolate_documents)
        with _evaluating(self.body), attending_with(self.body, self.attention.implementation), torch.no_grad():
            for indices in self._groups(jobs):
                prefix = self._prefix(jobs[indices[0]].row, collate)
                for members in self._batches(jobs, indices):
                    rows = [jobs[index].row for index, _ in members]
                    batch = collate(rows, range(len(rows)), 0)
                    masked, scored = (
                        _padded([getattr(jobs[index], name)[draw] for index, draw in members], batch.input_ids.shape[1])
                        for name in ("masked", "scored")
                    )
                    self._fill(scores, members, batch.to(self.excluded.device), masked, scored, prefix)
                    if on_rows is not None:
                        on_rows(len(members))
        return scores

    def _groups(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Jobs that go through the model together: those behind one static context, and all without."""
        groups: dict[bytes, list[int]] = {}
        for index, job in enumerate(jobs):
            context = job.row.input_ids[: static_length(job.row, self.decoder)].tobytes()
            groups.setdefault(context, []).append(index)
        return list(groups.values())

    def _prefix(self, row: Row, collate: Collator) -> StaticPrefix | None:
        """The static context of a row, run; None where it has none."""
        length = static_length(row, self.decoder)
        if not length:
            return None
        batch = collate([row], range(1), 0).to(self.excluded.device)
        return StaticPrefix.run(self.decoder, batch, length, self.attention.block_length)

    def _check(self, row: Row) -> None:
        wrong = np.isin(row.input_ids, self.excluded.cpu().numpy()) & row.eligible
        if wrong.any():
            found = int(row.input_ids[wrong][0])
            what = "the mask token" if found == self.mask_id else f"id {found}, which stands for no text"
            raise UserInputError(f"a text to be scored holds {what}")

    def _batches(self, jobs: Sequence[Job], indices: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
        """(job, draw) of the rows of each forward, rows of about the same length together."""
        order = sorted(indices, key=lambda index: -len(jobs[index].row.input_ids))
        members: list[tuple[int, int]] = []
        for index in order:
            for draw in range(len(jobs[index].masked)):
                longest = len(jobs[members[0][0]].row.input_ids) if members else 0
                if members and (len(members) + 1) * longest > self.batch_tokens:
                    yield members
                    members = []
                members.append((index, draw))
        if members:
            yield members

    def _fill(
        self,
        scores: list[Scores],
        members: list[tuple[int, int]],
        batch: Batch,
        masked: Bools,
        scored: Bools,
        prefix: StaticPrefix | None,
    ) -> None:
        """Run one batch and write down what was asked for."""
        at_row, at_column = scored.nonzero()
        place = torch.from_numpy(np.stack([at_row, at_column])).to(batch.input_ids.device)
        ids = torch.where(torch.from_numpy(masked).to(batch.input_ids.device), self.mask_id, batch.input_ids)
        if prefix is None:
            hidden = self.attention.hidden(self.body, ids, batch, logit_shift=self.logit_shift).noisy[
                place[0], place[1]
            ]
        else:
            hidden = prefix.hidden(batch, ids)[place[0], place[1] - prefix.length]
        found = self.judge(hidden, batch.input_ids[place[0], place[1]])
        cross_entropy, correct, confidence = (each.cpu().numpy() for each in found)
        ends = np.searchsorted(at_row, np.arange(len(members) + 1))
        for (index, draw), start, end in zip(members, ends[:-1], ends[1:], strict=True):
            columns = at_column[start:end]
            scores[index].cross_entropy[draw, columns] = cross_entropy[start:end]
            scores[index].correct[draw, columns] = correct[start:end]
            scores[index].confidence[draw, columns] = confidence[start:end]

    def judge(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy, whether the first choice is right, and its probability, (N,) each, of hidden states (N, H)."""
        parts = []
        size = max(1, _CHUNK_ELEMENTS // self.head.out_features)
        for start in range(0, len(hidden), size):
            logits = self.head(hidden[start : start + size])
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            logits[:, self.excluded] = -torch.inf
            # In place, and without indices of the maxima: with a large vocabulary this costs as much as the head.
            best, own = logits.amax(dim=-1), logits.gather(1, target[start : start + size, None])[:, 0]
            total = logits.sub_(best[:, None]).exp_().sum(dim=-1)
            parts.append((total.log() - (own - best), own == best, 1 / total))
        if not parts:
            nothing = torch.zeros(0, device=hidden.device)
            return nothing, nothing.bool(), nothing
        cross_entropy, correct, confidence = (torch.cat(each) for each in zip(*parts, strict=True))
        return cross_entropy, correct, confidence


@attrs.frozen
class _Earlier:
    """The attention of a decoder."""

    def mask_function(self, layout: SequenceLayout) -> MaskFunction:
        """Visible: the position itself, and those before it."""
        return lambda batch, head, query, key: key <= query


def _padded(rows: Sequence[Bools], length: int) -> Bools:
    padded = np.zeros((len(rows), length), dtype=bool)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


@contextmanager
def _evaluating(body: nn.Module) -> Iterator[None]:
    """Dropout off, and as it was afterwards."""
    was_training = body.training
    body.eval()
    try:
        yield
    finally:
        body.train(was_training)
