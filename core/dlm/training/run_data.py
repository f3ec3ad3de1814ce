"""The data of a run: from section ``dataset`` to the loader (with how many workers), and held-out batches."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
import torch
from transformers import PreTrainedTokenizerBase

from dlm.config import DatasetConfig, RunConfig
from dlm.data.batch import Batch, Collator, StepShape
from dlm.data.conversations.bad_rows import BadRow
from dlm.data.conversations.clock import TemplateClock
from dlm.data.conversations.conversation_rows import ConversationRows, configured_rendering, conversation_rows
from dlm.data.conversations.formats import find_format, read_turns
from dlm.data.loader import StepLoader
from dlm.data.order import shuffled
from dlm.data.packing import text_rows
from dlm.data.rows import Rows
from dlm.data.source_records import Source
from dlm.data.sources import load_source
from dlm.data.split import sample_rows, split_rows
from dlm.data.streaming import StreamLoader
from dlm.data.text_column import PREFERRED_COLUMNS, find_text_column, other_columns, read_texts
from dlm.data.token_cache import tokenized
from dlm.data.tokenization import Documents, eos_id_of
from dlm.errors import DataError
from dlm.training.processes import Processes, exchange
from dlm_plugins.masking import NEEDS_TRACE
from dlm_plugins.reward import COLUMNS


@attrs.frozen(kw_only=True, eq=False)
class EvaluationBatches:
    """This process's share of the evaluation rows, in batches; they can be gone through again and again."""

    loader: StepLoader
    num_held_out: int
    """Rows that the loader's are a sample of."""

    def summary(self) -> str:
        """How many rows of how many are evaluated."""
        return f"{len(self.loader.rows):,} of {self.num_held_out:,} held-out rows"

    def __iter__(self) -> Iterator[Batch]:
        """Batches whose ``row_index`` counts over all evaluation rows."""
        for step in self.loader.one_epoch():
            first = step.epoch_batch * self.loader.shape.rows_per_step
            for batch in step.micro_batches:
                index = torch.where(batch.row_index >= 0, batch.row_index + first, batch.row_index)
                yield attrs.evolve(batch, row_index=index)


@attrs.frozen(kw_only=True, eq=False)
class PreparedData:
    """What the engine needs of the data."""

    loader: StepLoader | StreamLoader
    evaluation: EvaluationBatches | None
    fingerprint: str
    """Changes whenever a row does."""
    summary: str
    unused: tuple[BadRow, ...] = ()
    """Rows of the sources, held-out splits included, that were passed over, with the reasons."""
    notes: Sequence[str] = ()
    """What the user should know of how the data was read: a line each, said before anything is trained."""
    origin: Sequence[str] = ()
    """Where the ids came from, tokenized now or found in the cache: a line each."""
    has_reasoning: bool = False
    """Whether answers are trained with reasoning before them."""
    clock: str | None = None
    """The time that the chat template printed; None where it prints none."""


def read_training_texts(config: RunConfig) -> Iterator[str]:
    """The texts of the training split, one after the other; in fine-tuning those of the turns."""
    dataset = config.dataset
    for each in _sources(dataset):
        source = load_source(str(each.name), split=each.split, streaming=each.streaming)
        yield from _TEXTS[config.training.mode](source, each)


def prepare_data(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, processes: Processes, started: datetime | None = None
) -> PreparedData:
    """Read, tokenize, pack and split the data set of a run.

    Args:
        config: of the run.
        tokenizer: with a mask token.
        processes: that share the rows.
        started: when the run was first started, for chat templates that print the time; None: now.

    Raises:
        DataError: It cannot be found, read or used.
    """
    dataset, evaluation = config.dataset, config.evaluation
    if dataset.streaming:
        return _streamed(config, tokenizer, processes)
    make_rows, clock = _ROWS[config.training.mode], TemplateClock() if started is None else TemplateClock(started)
    all_rows, training, held_out, told = [], [], [], []

    def read(section: DatasetConfig) -> tuple[Rows, dict[str, Any]]:
        source = load_source(str(section.name), split=section.split)
        return make_rows(source, attrs.evolve(config, dataset=section), tokenizer, clock)

    for each in _sources(dataset):
        rows, told_of_rows = read(each)
        all_rows.append(rows)
        told.append(told_of_rows)
        if evaluation.do_eval_loss and evaluation.split is not None:
            other, told_of_other = read(attrs.evolve(each, split=evaluation.split))
            held_out.append(other)
            told.append({name: told_of_other.get(name, ()) for name in ("origin", "unused")})
        elif evaluation.do_eval_loss:
            rows, other = split_rows(rows, evaluation.fraction, config.training.seed, str(each.name))
            held_out.append(other)
        training.append(rows)
    whole, rows = _together(all_rows, dataset), _together(training, dataset)
    collate, shape = collator(config, tokenizer, rows), step_shape(config, processes)
    loader = StepLoader(
        rows=rows,
        collate=collate,
        shape=shape,
        seed=config.training.seed,
        order=getattr(rows, "order", shuffled),
        num_workers=_num_workers(dataset, processes.device),
    )
    return PreparedData(
        loader=loader,
        evaluation=_evaluation_batches(_together(held_out, dataset), config, collate, shape) if held_out else None,
        fingerprint=rows.fingerprint,
        summary=whole.summary(),
        clock=clock.now.isoformat() if clock.was_read else None,
        **{
            name: tuple(itertools.chain.from_iterable(each.get(name, ()) for each in told))
            for name in ("notes", "origin", "unused")
        },
        has_reasoning=any(each.get("has_reasoning", False) for each in told),
    )


def _check_steps(rows: Rows, config: RunConfig) -> None:
    if NEEDS_TRACE.of(config.training.active_noise.masking) and not _has_steps(rows):
        raise DataError(
            f"{config.dataset.name}: the masking needs the step at which each token was written: a column step_map "
            "beside input_ids and prompt_length in every row, as `dlm generate --prompt-file ... --out` writes them"
        )


def _has_steps(rows: Rows | None) -> bool:
    parts = getattr(rows, "parts", (rows,))
    return all(isinstance(part, ConversationRows) and part.store.step_maps is not None for part in parts)


def _sources(dataset: DatasetConfig) -> list[DatasetConfig]:
    """The section once for each data set."""
    if dataset.mixture is None:
        return [dataset]
    return [attrs.evolve(dataset, name=each.name, mixture=None) for each in dataset.mixture]


def _together(parts: Sequence[Rows], dataset: DatasetConfig) -> Rows:
    if dataset.mixture is None:
        return parts[0]
    from dlm.data.mixture import MixedRows

    names, weights = zip(*((each.name, each.weight) for each in dataset.mixture), strict=True)
    return MixedRows(tuple(parts), names, weights)


def step_shape(config: RunConfig, processes: Processes) -> StepShape:
    """How a step's rows are shared out over micro-steps and processes."""
    return StepShape(
        batch_size=config.training.batch_size,
        accumulation=config.training.gradient_accumulation_steps,
        rank=processes.process_index,
        world_size=processes.num_processes,
    )


def isolates_documents(config: RunConfig) -> bool:
    """Whether documents of one row are hidden from each other."""
    return config.dataset.pack if config.training.mode == "sft" else config.dataset.isolate_documents


def collator(config: RunConfig, tokenizer: PreTrainedTokenizerBase, rows: Rows | None = None) -> Collator:
    """How rows become batches."""
    dataset, has_answers = config.dataset, config.training.mode in ("sft", "preference")
    eos_id = eos_id_of(tokenizer)
    return Collator(
        pad_id=eos_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id),
        has_answers=has_answers,
        has_pairs=config.training.mode == "preference",
        column_names=() if rows is None else rows.column_names,
        has_steps=_has_steps(rows),
        isolate_documents=isolates_documents(config),
        trained_padding_id=eos_id if has_answers and dataset.eos_padding == "all" else None,
    )


def _texts(source: Source, dataset: DatasetConfig) -> Iterator[str]:
    return read_texts(source, find_text_column(source, dataset.text_column))


def _column_notes(source: Source, dataset: DatasetConfig) -> tuple[str, ...]:
    column = find_text_column(source, dataset.text_column)
    others = other_columns(source, column)
    is_guess = dataset.text_column is None and (others or column != PREFERRED_COLUMNS[0])
    return (
        *((f"{source.name}: the text is in column {column!r}",) if is_guess else ()),
        *((f"{source.name}: columns not used: {', '.join(others)}",) if others else ()),
    )


def _turn_texts(source: Source, dataset: DatasetConfig) -> Iterator[str]:
    return read_turns(source, find_format(source, dataset.format))


def _pair_texts(source: Source, dataset: DatasetConfig) -> Iterator[str]:
    from dlm.data.conversations.preferences import read_pair_texts  # only where there are preferences

    return read_pair_texts(source)


def _preference_rows(
    source: Source, config: RunConfig, tokenizer: PreTrainedTokenizerBase, clock: TemplateClock
) -> tuple[Rows, dict[str, Any]]:
    from dlm.data.conversations.preferences import PreferenceRows, preference_rows  # only where there are preferences

    dataset = config.dataset
    pairs = preference_rows(
        source,
        tokenizer,
        max_length=dataset.max_length,
        chat_template=dataset.chat_template,
        eos_padding=dataset.eos_padding,
        long_rows=dataset.long_rows,
        reasoning=dataset.reasoning,
        clock=clock,
        skip_bad_rows=dataset.on_bad_row == "skip",
        split=dataset.split,
    )
    _check_steps(pairs, config)
    return PreferenceRows(_with_origin(pairs.rows, config)), _told_of(pairs.rows)


def _text_rows(
    source: Source, config: RunConfig, tokenizer: PreTrainedTokenizerBase, clock: TemplateClock | None = None
) -> tuple[Rows, dict[str, Any]]:
    dataset = config.dataset
    recipe = Documents(source, find_text_column(source, dataset.text_column), tokenizer)
    found = tokenized(recipe, dataset.split)
    rows = text_rows(found.store, max_length=dataset.max_length, pack=dataset.pack)
    _check_steps(rows, config)
    return rows, {"notes": (*found.notes, *_column_notes(source, dataset)), "origin": found.origin}


def _conversation_rows(
    source: Source, config: RunConfig, tokenizer: PreTrainedTokenizerBase, clock: TemplateClock
) -> tuple[Rows, dict[str, Any]]:
    dataset = config.dataset
    rows = conversation_rows(
        source,
        tokenizer,
        max_length=dataset.max_length,
        format_name=dataset.format,
        chat_template=dataset.chat_template,
        train_on=dataset.train_on,
        eos_padding=dataset.eos_padding,
        long_rows=dataset.long_rows,
        reasoning=dataset.reasoning,
        clock=clock,
        skip_bad_rows=dataset.on_bad_row == "skip",
        pack=dataset.pack,
        split=dataset.split,
    )
    _check_steps(rows, config)
    return _with_origin(rows, config), _told_of(rows)


def _told_of(rows: ConversationRows) -> dict[str, Any]:
    return {
        "notes": rows.notes,
        "origin": rows.origin,
        "unused": rows.unused,
        "has_reasoning": rows.counts.num_reasoned_answers > 0,
    }


def _prompt_rows(
    source: Source, config: RunConfig, tokenizer: PreTrainedTokenizerBase, clock: TemplateClock
) -> tuple[Rows, dict[str, Any]]:
    from dlm.data.conversations.prompt_rows import prompt_rows  # only where there are rollouts

    dataset, readers = config.dataset, [each.reward for each in config.rl.rewards]
    rows = prompt_rows(
        source,
        configured_rendering(tokenizer, chat_template=dataset.chat_template, clock=clock),
        longest=dataset.max_length - (config.sampling.gen_length or 0),  # of a row an answer takes its part
        format_name=dataset.format,
        skip_long_rows=dataset.long_rows != "error",
        skip_bad_rows=dataset.on_bad_row == "skip",
        columns={column: type(reader).__name__ for reader in readers for column in COLUMNS.of(reader)},
    )
    return rows, {"notes": rows.notes, "unused": rows.unused, "origin": ()}


def _prompt_texts(source: Source, dataset: DatasetConfig) -> Iterator[str]:
    from dlm.data.conversations.prompt_rows import prompt_texts  # only where there are rollouts

    return prompt_texts(source, dataset.format)


def _with_origin(rows: ConversationRows, config: RunConfig) -> ConversationRows:
    """Conversations whose blocks count from where ``training.block_attention.origin`` says."""
    blocks = config.training.block_attention
    return attrs.evolve(rows, blocks_from_start=blocks.enabled and blocks.origin == "document")


def _evaluation_batches(rows: Rows, config: RunConfig, collate: Collator, shape: StepShape) -> EvaluationBatches:
    sample = sample_rows(rows, config.evaluation.max_rows, config.training.seed)
    one_micro_step = attrs.evolve(shape, accumulation=1)
    # Another split need not have all the numeric columns of the rows that are trained.
    collate = attrs.evolve(collate, column_names=rows.column_names)
    loader = StepLoader(rows=sample, collate=collate, shape=one_micro_step, shuffle=False)
    return EvaluationBatches(loader=loader, num_held_out=len(rows))


def _streamed(config: RunConfig, tokenizer: PreTrainedTokenizerBase, processes: Processes) -> PreparedData:
    dataset, evaluation = config.dataset, config.evaluation
    source = load_source(str(dataset.name), split=dataset.split, streaming=True)
    collate, shape = collator(config, tokenizer), step_shape(config, processes)
    loader = StreamLoader(
        source=source,
        tokenizer=tokenizer,
        text_column=find_text_column(source, dataset.text_column),
        max_length=dataset.max_length,
        collate=collate,
        shape=shape,
        pack=dataset.pack,
        seed=config.training.seed,
        shuffle_buffer=dataset.shuffle_buffer,
        num_workers=_num_workers(dataset, processes.device),
        exchange=exchange(processes, "the others' share of the stream"),
    )
    held_out: EvaluationBatches | None = None
    origin: Sequence[str] = ()
    if evaluation.do_eval_loss and evaluation.split is not None:
        source_held_out = load_source(str(dataset.name), split=evaluation.split, streaming=True)
        section = attrs.evolve(dataset, split=evaluation.split)
        rows, told = _text_rows(source_held_out, attrs.evolve(config, dataset=section), tokenizer)
        origin = told["origin"]
        held_out = _evaluation_batches(rows, config, collate, shape)
    return PreparedData(
        loader=loader,
        evaluation=held_out,
        fingerprint=f"{source.name}: {source.identity}",
        summary=source.name,
        notes=(*source.notes, *_column_notes(source, dataset)),
        origin=origin,
    )


def _num_workers(dataset: DatasetConfig, device: torch.device) -> int:
    """How many processes read ahead: by default one for a stream, unless it would take its time from the steps."""
    if dataset.num_workers == "auto":
        return int(dataset.streaming and device.type != "cpu")
    return dataset.num_workers


_TEXTS: Mapping[str, Callable[[Source, DatasetConfig], Iterator[str]]] = {
    "pretrain": _texts,
    "sft": _turn_texts,
    "preference": _pair_texts,
    "rl": _prompt_texts,
}
_MakeRows = Callable[[Source, RunConfig, PreTrainedTokenizerBase, TemplateClock], tuple[Rows, dict[str, Any]]]
"""Takes the run with one data set. Gives rows, and fields of :class:`PreparedData` that tell of them."""
_ROWS: Mapping[str, _MakeRows] = {
    "pretrain": _text_rows,
    "sft": _conversation_rows,
    "preference": _preference_rows,
    "rl": _prompt_rows,
}
