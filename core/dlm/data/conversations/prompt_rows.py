"""Prompts without answers, each with its whole row: what rollouts start from, and what rewards compare them with."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from dlm.data.conversations.bad_rows import BadRow, in_order, refuse
from dlm.data.conversations.formats import ConversationFormat, find_format, system_of
from dlm.data.conversations.rendering import Rendering
from dlm.data.conversations.turn_lists import read_tools
from dlm.data.conversations.turns import BadRowError, Conversation, Turn, text_in
from dlm.data.conversations.unused_keys import Fields
from dlm.data.rows import Row
from dlm.data.source_records import Origin, Source
from dlm.data.sources import first_records
from dlm.errors import DataError


@attrs.frozen
class Prompt:
    """What is to be answered."""

    text: str
    """The last thing that was said."""
    ids: NDArray[np.int32]
    """What the model is given."""
    values: Mapping[str, Any]
    """The row it comes from, as it was read."""
    origin: Origin


@attrs.frozen(eq=False)
class PromptRows:
    """N prompts, a row each. Nothing in them is eligible: answers are yet to be written."""

    prompts: tuple[Prompt, ...]
    unused: tuple[BadRow, ...] = ()
    """Rows of the source that were not used, in their order."""
    notes: tuple[str, ...] = ()
    """Those of the source, and a line on columns that no prompt shows, if there are any."""

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each prompt, at least 1."""
        return np.array([max(len(prompt.ids), 1) for prompt in self.prompts], np.int64)

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """(N,) the same: each prompt is a document."""
        return self.lengths

    @property
    def column_names(self) -> tuple[str, ...]:
        """None goes into the batch: rewards read whole rows."""
        return ()

    @property
    def num_tokens(self) -> int:
        """Tokens of all prompts."""
        return int(self.lengths.sum())

    @property
    def num_documents(self) -> int:
        """N."""
        return len(self.prompts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ids and rows."""
        digest = hashlib.sha256(b"prompts")
        for prompt in self.prompts:
            digest.update(prompt.ids.tobytes())
            digest.update(json.dumps(prompt.values, sort_keys=True, default=repr).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Row:
        ids = self.prompts[index].ids
        nothing = np.zeros(len(ids), np.int32)
        return Row(
            input_ids=ids,
            document_id=nothing,
            position=np.arange(len(ids), dtype=np.int32),
            eligible=nothing.astype(np.bool_),
            answer_start=nothing,
        )

    def select(self, rows: NDArray[np.int64]) -> "PromptRows":
        """Only these, in this order."""
        return attrs.evolve(self, prompts=tuple(self.prompts[row] for row in rows))

    select_documents = select

    def summary(self) -> str:
        """One line for people."""
        passed = f"; {len(self.unused):,} rows were not used" if self.unused else ""
        return f"{len(self):,} prompts of {self.lengths.min()} to {self.lengths.max()} tokens{passed}"


def prompt_rows(
    source: Source,
    rendering: Rendering,
    *,
    longest: int,
    format_name: str | None = None,
    skip_long_rows: bool = True,
    skip_bad_rows: bool = False,
    columns: Mapping[str, str] = {},
) -> PromptRows:
    """Read prompts: texts in a column ``prompt``, or conversations, of which the last answer is left out.

    Args:
        source: rows.
        rendering: how a prompt becomes ids.
        longest: most tokens of a prompt.
        format_name: as ``dataset.format``; None finds it by the columns.
        skip_long_rows: go on without longer prompts, instead of refusing the data set.
        skip_bad_rows: go on without rows that hold no prompt, or lack one of the columns.
        columns: what else each row must hold, with the name of the reward that reads it.

    Raises:
        DataError: rows that are not to be passed over, or nothing left.
    """
    form = _format(source, format_name)
    prompts, bad, long, hidden = [], [], [], dict[str, None]()
    for record in source.open():
        try:
            if record.problem is not None:
                raise BadRowError(record.problem)
            conversation = _conversation(record.values, form)
            _require(record.values, columns)
            ids = np.asarray(rendering.prompt(conversation), np.int32)
            hidden.update(dict.fromkeys(rendering.ignored(conversation)))
        except BadRowError as error:
            bad.append(BadRow(record.origin, str(error)))
            continue
        if len(ids) > longest:
            long.append(BadRow(record.origin, f"its prompt has {len(ids)} tokens, and {longest} leave room to answer"))
            continue
        prompts.append(Prompt(conversation.turns[-1].text, ids, record.values, record.origin))
    if not skip_bad_rows:
        refuse(bad, "Correct them, or pass them over with dataset.on_bad_row: skip.")
    if not skip_long_rows:
        refuse(long, "Raise dataset.max_length, lower sampling.gen_length, or set dataset.long_rows to drop.")
    unused = in_order(bad, long)
    if not prompts:
        raise DataError(f"{source.name}: no prompt in it{f' (first: {unused[0]})' if unused else ''}")
    told = (f"{source.name}: not shown in prompts: {', '.join(hidden)}",) if hidden else ()
    return PromptRows(tuple(prompts), unused, (*source.notes, *told))


def _require(values: Mapping[str, Any], columns: Mapping[str, str]) -> None:
    for column, reader in columns.items():
        if values.get(column) is None:
            found = "is empty" if column in values else "is missing"
            raise BadRowError(f"column {column!r}, which {reader} reads, {found} (columns: {', '.join(values)})")


def prompt_texts(source: Source, format_name: str | None) -> Iterator[str]:
    """The texts of all prompts; rows without one are left to :func:`prompt_rows`."""
    form = _format(source, format_name)
    for record in source.open():
        if record.problem is None:
            try:
                yield from (turn.text for turn in _conversation(record.values, form).turns)
            except BadRowError:
                continue


def _format(source: Source, name: str | None) -> ConversationFormat | None:
    """None where the rows have a text in a column ``prompt``, whatever else they have."""
    readable = (record for record in first_records(source) if record.problem is None)
    first = next(readable, None)
    if name is None and first is not None and isinstance(first.values.get("prompt"), str):
        return None
    return find_format(source, name)


def _conversation(values: Mapping[str, Any], form: ConversationFormat | None) -> Conversation:
    if form is None:
        asked = Turn("human", text_in(values.get("prompt"), "prompt"))
        return Conversation((asked,), system_of(Fields(values)), read_tools(values.get("tools")))
    whole = form.parse(values)
    turns = whole.turns[:-1] if whole.turns[-1].role == "gpt" else whole.turns
    if not turns or turns[-1].role == "gpt":
        raise BadRowError("nothing is asked: the last turn but the answer is not the user's")
    return attrs.evolve(whole, turns=tuple(turns))
