"""The first training batch as the model will see it, noise included, without a model (``dlm data preview``)."""

from collections.abc import Iterator, Sequence

import attrs
from accelerate import Accelerator

from dlm.config import LoadedConfig, run_components
from dlm.data.batch import RandomLength, StepBatch
from dlm.data.conversations.bad_rows import BadRow
from dlm.data.loader import StepLoader
from dlm.diffusion.forward_process import ForwardProcess, NoisedBatch
from dlm.model.tokenizer import ensure_mask_token
from dlm.training.model_and_noise import build_forward_process, build_random_length, build_tokenizer, build_vocabulary
from dlm.training.noised_pieces import Piece, noised_pieces
from dlm.training.run_data import prepare_data


@attrs.frozen(kw_only=True)
class PreviewRow:
    """One row of a step."""

    number: int
    """In the step, from 0."""
    data_row: int
    """In the training rows, from 0."""
    view: int
    """Which of the row's views this is, from 0."""
    pieces: tuple[Piece, ...]
    """The row from left to right."""
    num_documents: int
    rates: tuple[float, float]
    """Lowest and highest mask rate."""

    def count(self, *kinds: str) -> int:
        """Tokens of these kinds."""
        return sum(piece.num_tokens for piece in self.pieces if piece.kind in kinds)


@attrs.frozen(kw_only=True)
class RowLengths:
    """What the training rows look like."""

    num_rows: int
    num_tokens: int
    shortest: int
    median: int
    longest: int


@attrs.frozen(kw_only=True)
class Preview:
    """What a run will train on."""

    mode: str
    data_summary: str
    evaluation_summary: str
    """How many rows of how many are evaluated."""
    lengths: RowLengths | None
    """None for a stream, which has no end."""
    max_length: int
    rows_per_step: int
    num_views: int
    rows: tuple[PreviewRow, ...]
    unused: tuple[BadRow, ...]
    """What was dropped, and why."""
    notes: Sequence[str]
    """What the user should know of how the data was read."""


def preview(loaded: LoadedConfig, accelerator: Accelerator, num_rows: int) -> Preview:
    """The first ``num_rows`` rows of step 0 with the noise that the run will draw. No output is written.

    Raises:
        DlmError: Tokenizer or data cannot be used.
    """
    config = loaded.config
    tokenizer = build_tokenizer(config)
    data = prepare_data(config, tokenizer, accelerator)
    vocabulary = build_vocabulary(tokenizer, ensure_mask_token(tokenizer, config.model.mask_token))
    process = build_forward_process(config, run_components(config, loaded.registry), loaded.registry, vocabulary)
    step_batch = next(iter(data.loader.steps()))
    noised_batches = list(_noised(step_batch, process, build_random_length(config), num_rows))
    rows = tuple(
        row
        for noised in noised_batches
        for row in _rows_of(noised, step_batch, tokenizer, vocabulary.mask_id, process.num_draws)
    )
    return Preview(
        mode=config.training.mode,
        data_summary=data.summary,
        evaluation_summary="none" if data.evaluation is None else data.evaluation.summary(),
        lengths=_lengths(data.loader) if isinstance(data.loader, StepLoader) else None,
        max_length=config.dataset.max_length,
        rows_per_step=step_batch.num_rows,
        num_views=max((row.view for row in rows), default=0) + 1,
        rows=tuple(row for row in sorted(rows, key=lambda row: (row.number, row.view)) if row.number < num_rows),
        unused=data.unused,
        notes=data.notes,
    )


def _noised(
    step_batch: StepBatch, process: ForwardProcess, random_length: RandomLength, num_rows: int
) -> Iterator[NoisedBatch]:
    """As many micro-batches as it takes, noised as :class:`dlm.training.step.TrainingStep` does in step 0."""
    num_seen = 0
    for batch in step_batch.micro_batches:
        if num_seen >= num_rows:
            return
        num_seen += len(batch.row_index)
        yield process(random_length(batch, 0), step=0, num_rows=step_batch.num_rows)


def _rows_of(
    noised: NoisedBatch, step_batch: StepBatch, tokenizer: object, mask_id: int, num_draws: int
) -> Iterator[PreviewRow]:
    """The real rows of a micro-batch, views (and the answers of a pair) one after the other."""
    numbers = noised.clean.row_index.tolist()
    for index, number in enumerate(numbers):
        if number < 0:
            continue
        real = noised.clean.document_id[index] >= 0
        rates = noised.rate[index][real]
        yield PreviewRow(
            number=number,
            data_row=step_batch.row_ids[number // num_draws],
            view=numbers[:index].count(number),
            pieces=tuple(noised_pieces(noised, index, tokenizer, mask_id)),
            num_documents=len(noised.clean.document_id[index][real].unique()),
            rates=(float(rates.min()), float(rates.max())),
        )


def _lengths(loader: StepLoader) -> RowLengths:
    lengths = sorted(int(length) for length in loader.rows.lengths)
    return RowLengths(
        num_rows=len(lengths),
        num_tokens=sum(lengths),
        shortest=lengths[0],
        median=lengths[len(lengths) // 2],
        longest=lengths[-1],
    )
