"""A noised row as pieces of text, each of one kind."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

import attrs

from dlm.diffusion.forward_process import NoisedBatch

PieceKind = Literal["prompt", "clean", "masked", "replaced", "padding"]

_LINE_BREAK = "\u21b5"
_FEWEST_REPEATS = 4


@attrs.frozen(kw_only=True)
class Piece:
    """Neighbouring tokens of one kind in one document."""

    kind: PieceKind
    text: str
    """What stands there in the clean text; nothing for padding."""
    num_tokens: int
    document: int
    """Number in the row, from 0; -1 for padding."""
    seen: str = ""
    """What the model sees instead, where another token replaced the clean one."""


def pieces_of(noised: NoisedBatch, row: int, tokenizer: Any, mask_id: int) -> Iterator[Piece]:
    """The pieces of one row, from left to right.

    Args:
        noised: B rows.
        row: in [0, B).
        tokenizer: of the ids.
        mask_id: what stands at masked positions.
    """
    clean_ids = noised.clean.input_ids[row].tolist()
    noisy_ids = noised.noisy_ids[row].tolist()
    documents = noised.clean.document_id[row].tolist()
    eligible, corrupted = noised.clean.eligible[row].tolist(), noised.corrupted[row].tolist()

    def kind_at(place: int) -> tuple[PieceKind, int]:
        document = documents[place]
        if document < 0:
            return "padding", document
        if corrupted[place]:
            return ("masked" if noisy_ids[place] == mask_id else "replaced"), document
        return ("clean" if eligible[place] else "prompt"), document

    for (kind, document), group in groupby(range(len(clean_ids)), key=kind_at):
        places = list(group)
        yield Piece(
            kind=kind,
            text="" if kind == "padding" else text_of_ids([clean_ids[place] for place in places], tokenizer),
            num_tokens=len(places),
            document=document,
            seen=text_of_ids([noisy_ids[place] for place in places], tokenizer) if kind == "replaced" else "",
        )


def text_of_ids(ids: Sequence[int], tokenizer: Any) -> str:
    """Text that is safe to print: special tokens by name, repeated ones counted, control characters escaped."""
    parts: list[str] = []
    pending: list[int] = []
    for token_id, group in groupby(ids):
        repeats = len(list(group))
        if repeats < _FEWEST_REPEATS:
            pending += [token_id] * repeats
            continue
        parts += [_decoded(pending, tokenizer), f"{_decoded([token_id], tokenizer)} (x{repeats})"]
        pending = []
    return "".join([*parts, _decoded(pending, tokenizer)])


def _decoded(ids: Sequence[int], tokenizer: Any) -> str:
    text: str = (
        tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False) if ids else ""
    )
    return "".join(_printable(character) for character in text)


def _printable(character: str) -> str:
    if character == "\n":
        return _LINE_BREAK
    return character if character.isprintable() else ascii(character)[1:-1]
