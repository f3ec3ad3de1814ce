"""A noised row as pieces of text, each of one kind (prompt, masked, replaced, padding, ...), for the preview."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

import attrs

from dlm.diffusion.forward_process import NoisedBatch
from dlm.sampling.pieces import whole_characters

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


def noised_pieces(noised: NoisedBatch, row: int, tokenizer: Any, mask_id: int) -> Iterator[Piece]:
    """The pieces of one row, from left to right.

    A character whose tokens are of several kinds stands whole in the piece of the first of them that is corrupted.

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

    spelling = _spelling(clean_ids, documents, corrupted, tokenizer)
    for (kind, document), group in groupby(range(len(clean_ids)), key=kind_at):
        places = list(group)
        spelt = [other for place in places for other in spelling[place]]
        yield Piece(
            kind=kind,
            text="" if kind == "padding" else text_of_ids([clean_ids[place] for place in spelt], tokenizer),
            num_tokens=len(places),
            document=document,
            seen=text_of_ids([noisy_ids[place] for place in spelt], tokenizer) if kind == "replaced" else "",
        )


def _spelling(
    ids: Sequence[int], documents: Sequence[int], corrupted: Sequence[bool], tokenizer: Any
) -> list[Sequence[int]]:
    """The places whose text is shown at each place: those of a character at one of them, none at the others."""
    spelling: list[Sequence[int]] = [()] * len(ids)
    for document, run in groupby(range(len(ids)), key=lambda place: documents[place]):
        places = list(run)
        if document < 0:
            continue
        start = places[0]
        for group, _ in whole_characters(tokenizer, [ids[place] for place in places]):
            spelt = range(start, start + len(group))
            spelling[next((place for place in spelt if corrupted[place]), start)] = spelt
            start += len(group)
    return spelling


def text_of_ids(ids: Sequence[int], tokenizer: Any) -> str:
    """Text that is safe to print: special tokens by name, repeated ones counted, control characters escaped."""
    parts: list[str] = []
    for _, run in groupby(whole_characters(tokenizer, ids), key=lambda character: character[0]):
        texts = ["".join(map(_printable, text)) for _, text in run]
        parts += texts if len(texts) < _FEWEST_REPEATS else [f"{texts[0]} (x{len(texts)})"]
    return "".join(parts)


def _printable(character: str) -> str:
    if character == "\n":
        return _LINE_BREAK
    return character if character.isprintable() else ascii(character)[1:-1]
