"""What a model is evaluated on: the held-out rows of the run that a folder came from, or the texts of a data set."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from dlm.config import RunConfig, load_config
from dlm.data.rows import Row
from dlm.data.sources import load_source
from dlm.data.text_column import find_text_column, read_texts
from dlm.data.tokenization import encode_texts
from dlm.errors import DataError, DlmError, UserInputError
from dlm.evaluation.likelihood import ScoredText, window_of, windows
from dlm.sampling.session import Session
from dlm.training.output_folder import CONFIG
from dlm.training.processes import OneProcess
from dlm.training.run_data import isolates_documents, prepare_data
from dlm.training.trainer_state import TrainerState
from dlm.user_paths import user_path

DEFAULT_DATA = "python-docs"
_MOST_ROWS = 2000
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


@attrs.frozen(kw_only=True, eq=False)
class EvaluationData:
    """Rows to score."""

    name: str
    rows: Sequence[Row]
    num_bytes: Sequence[int]
    """UTF-8 bytes of each row's scored tokens; tokens that end a text have none."""
    fingerprint: str
    isolate_documents: bool
    notes: Sequence[str]


def run_of(model: str) -> Path | None:
    """The folder of the run that a model's folder came from: the one beside whose ``config.yaml`` it lies."""
    path = user_path(model).absolute()  # "." has a parent too
    found = [folder for folder in (path.parent, path.parent.parent) if (folder / CONFIG).is_file()]
    return found[0] if path.is_dir() and found else None


def evaluation_data(model: str, session: Session, name: str | None, window: int | None) -> EvaluationData:
    """The rows to score a model on.

    Args:
        model: as the user named it.
        session: with the model.
        name: of a data set, as ``dataset.name`` takes it; None: the run's own held-out rows, else a sample.
        window: tokens of a text that are scored at once; None: the model's context.

    Raises:
        DataError: no such data, or none in it.
        UserInputError: a window that does not fit.
    """
    run = run_of(model) if name is None else None
    if run is not None:
        config = load_config(run / CONFIG).config
        if config.evaluation.do_eval_loss and not (config.dataset.streaming and config.evaluation.split is None):
            return _held_out(run, config, session)
    return _texts(session, name or DEFAULT_DATA, window)


def run_config(model: str) -> RunConfig | None:
    """The configuration of the run a model came from; None: no such run, or one that can no longer be read."""
    run = run_of(model)
    if run is None:
        return None
    with suppress(DlmError):
        return load_config(run / CONFIG).config
    return None


def _held_out(run: Path, config: RunConfig, session: Session) -> EvaluationData:
    """The rows that the run evaluated itself on, as its configuration makes them again."""
    data = prepare_data(config, session.tokenizer, OneProcess())
    assert data.evaluation is not None
    rows = data.evaluation.loader.rows
    notes = []
    mixture = config.dataset.mixture or ()
    name = config.dataset.name or ", ".join(each.name for each in mixture)
    trained_on = _fingerprint_of(run)
    if trained_on not in (None, data.fingerprint):
        notes.append(
            f"the data of {name} are not those the run was trained on (another fingerprint): rows that "
            "are held out now may have been trained on"
        )
    return _of_rows(
        f"{name} ({data.evaluation.summary()})",
        [rows[index] for index in range(len(rows))],
        session,
        fingerprint=data.fingerprint,
        isolate_documents=isolates_documents(config),
        notes=notes,
    )


def _fingerprint_of(run: Path) -> str | None:
    """The data fingerprint in the newest checkpoint of a run."""
    steps = sorted((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    for checkpoint in reversed(steps):
        with suppress(OSError, ValueError, KeyError, DlmError):
            return str(TrainerState.read(checkpoint)[1]["data_fingerprint"])
    return None


def _texts(session: Session, name: str, window: int | None) -> EvaluationData:
    source = load_source(name)
    texts = list(read_texts(source, find_text_column(source, None)))
    room = window_of(session.model.config, window)
    blocks_from_start = getattr(session.model.config, "block_origin", None) == "document"
    pieces = [
        ScoredText.of_ids(before, after, blocks_from_start).row
        for ids in encode_texts(texts, session.tokenizer)
        for before, after in windows([int(each) for each in ids], room)
        if len(after)
    ]
    notes = list(source.notes)
    if len(pieces) > len(texts):
        notes.append(
            f"{len(texts)} texts in {len(pieces)} windows of at most {room} tokens, each after the first with the "
            f"{room // 2} tokens before it as context"
        )
    if len(pieces) > _MOST_ROWS:
        notes.append(f"the first {_MOST_ROWS:,} of {len(pieces):,} windows")
    return _of_rows(name, pieces[:_MOST_ROWS], session, source.identity, isolate_documents=False, notes=notes)


def _of_rows(
    name: str, rows: Sequence[Row], session: Session, fingerprint: str, isolate_documents: bool, notes: Sequence[str]
) -> EvaluationData:
    scored = [row for row in rows if row.eligible.any()]
    if not scored:
        raise DataError(f"{name}: no text to score")
    count = byte_counter(session.tokenizer)
    return EvaluationData(
        name=name,
        rows=scored,
        num_bytes=[count(row.input_ids[row.eligible].tolist()) for row in scored],
        fingerprint=fingerprint,
        isolate_documents=isolate_documents,
        notes=tuple(notes),
    )


def byte_counter(tokenizer: Any) -> Callable[[Sequence[int]], int]:
    """What counts the UTF-8 bytes that ids stand for; special tokens have none.

    Rows begin and end within characters where tokens are bytes: what is left of one is counted, not its replacement.
    """
    vocabulary, special = tokenizer.get_vocab(), set(tokenizer.all_special_ids)
    has_byte_tokens, is_byte_level = "<0x00>" in vocabulary, "Ġ" in vocabulary

    def bytes_of_token(token: str) -> int:
        if has_byte_tokens:
            return 1 if _BYTE_TOKEN.fullmatch(token) else len(token.replace("▁", " ").encode())
        return len(token)

    def count(ids: Sequence[int]) -> int:
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
        if "\ufffd" not in text or not (has_byte_tokens or is_byte_level):
            return len(text.encode("utf-8", "replace"))
        tokens = tokenizer.convert_ids_to_tokens([each for each in ids if each not in special])
        return sum(bytes_of_token(token) for token in tokens)

    return count


def for_other_tokenizer(data: EvaluationData, session: Session, other: Session) -> EvaluationData:
    """The same texts in the ids of another model's tokenizer.

    Raises:
        UserInputError: rows of which parts in the middle are not scored, or one that is too long or empty there.
    """
    rows, room = [], window_of(other.model.config, None)
    blocks_from_start = getattr(other.model.config, "block_origin", None) == "document"
    for row in data.rows:
        start = int(row.eligible.argmax())
        if not row.eligible[start:].all():
            raise UserInputError(
                "--against: models with different tokenizers are compared on plain texts only (--data)"
            )
        texts = [
            session.tokenizer.decode(part.tolist(), skip_special_tokens=True)
            for part in (row.input_ids[:start], row.input_ids[start:])
        ]
        before, after = ([int(each) for each in ids] for ids in encode_texts(texts, other.tokenizer))
        if not after:
            raise UserInputError(
                "--against: what is scored of a text is special tokens alone (ends, or words that no tokenizer entry "
                "stands for), so that the other model would have nothing to score: leave it out, or give other --data"
            )
        if len(before) + len(after) > room:
            raise UserInputError(
                f"--against: a text of {len(row.input_ids)} tokens has {len(before) + len(after)} in the other model's "
                f"tokens, and its context is {room}: give a smaller --window"
            )
        rows.append(ScoredText.of_ids(before, after, blocks_from_start).row)
    return attrs.evolve(data, rows=rows)
