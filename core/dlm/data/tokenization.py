"""Tokenize texts in batches, with an EOS token after each document."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from dlm.data.source_records import Source, SourceState
from dlm.data.text_column import TextCounts, report_texts, text_in_column
from dlm.data.text_files import TextError, check_unicode
from dlm.data.token_store import Part
from dlm.errors import DataError

_BATCH_CHARACTERS = 1 << 20
_BATCH_TEXTS = 1000
_PIECE_CHARACTERS = 1 << 18
# Between a line break and a visible character every usual pre-tokenizer has a boundary: cutting there changes no token.
_SAFE_CUT = re.compile(r"\n(?=\S)")


def eos_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the end-of-text token.

    Raises:
        DataError: the tokenizer has none.
    """
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise DataError("the tokenizer has no end-of-text token (eos_token), which separates documents; set one")
    return eos


@attrs.define
class Documents:
    """How the texts of a column become documents, each with the end-of-text token behind it."""

    source: Source
    column: str
    tokenizer: PreTrainedTokenizerBase
    findings: TextCounts = attrs.field(factory=TextCounts, init=False)

    @property
    def settings(self) -> Mapping[str, object]:
        """As :attr:`dlm.data.token_cache.Recipe.settings`."""
        return {"documents": "texts", "column": self.column}

    def parts(self, state: SourceState | None = None) -> Iterator[Part]:
        """As :meth:`dlm.data.token_cache.Recipe.parts`.

        Raises:
            DataError: no end-of-text token, a row that cannot be read, or ids that a text must not contain.
        """
        eos = np.array([eos_id_of(self.tokenizer)], np.int32)
        reader = self.source.open(state)
        records = with_progress(reader, "Tokenizing documents", self.source.num_records)
        texts = (text_in_column(record, self.column, self.findings) for record in records)
        for batch in _batches(text for text in texts if text is not None):
            ids = [np.concatenate([each, eos]) for each in encode_texts(batch, self.tokenizer)]
            yield Part(ids, reader.state())

    def check(self) -> None:
        """As :meth:`dlm.data.token_cache.Recipe.check`."""
        report_texts(self.source.name, self.column, self.findings)


def encode_texts(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[NDArray[np.int32]]:
    """Ids of every text: (n,) each, without any special token.

    The name of a special token inside a text is encoded as the text it is, so that no text can end a document or look
    like a mask. (Where special tokens are pieces of the vocabulary, as in Unigram, the mask alone is refused.)

    Raises:
        DataError: a text that is not valid Unicode, or one for which the tokenizer writes the mask token nevertheless.
    """
    for batch in _batches(map(_checked, texts)):
        pieces = [list(_pieces(text)) for text in batch]
        flat = [piece for group in pieces for piece in group]
        encoded = tokenizer(
            flat,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        arrays = iter([np.asarray(ids, np.int32) for ids in encoded])
        for group in pieces:
            ids = np.concatenate([next(arrays) for _ in group])
            _refuse_masks(ids, tokenizer)
            yield ids


def _checked(text: str) -> str:
    try:
        return check_unicode(text)
    except TextError as error:
        raise DataError(f"the text {text[:40]!r} is {error}") from error


def _refuse_masks(ids: NDArray[np.int32], tokenizer: PreTrainedTokenizerBase) -> None:
    mask = tokenizer.mask_token_id
    if isinstance(mask, int) and bool((ids == mask).any()):
        raise DataError(
            f"the tokenizer writes the mask token {tokenizer.mask_token!r} for ordinary text of the data set, so clean "
            f"text would look masked; choose another model.mask_token"
        )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_characters = 0
    for text in texts:
        batch.append(text)
        num_characters += len(text)
        if num_characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_TEXTS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> Iterator[str]:
    """Very long texts are cut at line starts, so that one of a gigabyte does not need a hundred of memory."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        cut = _SAFE_CUT.search(text, start + _PIECE_CHARACTERS)
        if cut is None:
            break
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]


Item = TypeVar("Item")


def with_progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """The items themselves, counted on a bar at standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
