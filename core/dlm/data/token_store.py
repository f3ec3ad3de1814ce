"""Token ids of many documents, one after the other, in shards: in RAM, or in files that are mapped into memory."""

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from dlm.data.source_records import SourceState

SHARD_TOKENS = 1 << 26
"""From 64 million ids on, 256 MiB, what was collected goes into files."""

Columns = Mapping[str, NDArray[Any]]
"""(D,) each: what is known of every document beside its ids, by name; integers, or floats with NaN for nothing."""


@attrs.frozen
class Shard:
    """Some documents in two files: ``NAME.ids``, int32 ids, and ``NAME.npz``, their lengths and columns."""

    ids: Path
    num_tokens: int
    num_documents: int

    @property
    def index(self) -> Path:
        """The file beside the ids."""
        return self.ids.with_suffix(".npz")

    def read_ids(self) -> NDArray[np.int32]:
        """(num_tokens,), read only where they are looked at, from pages that all processes share."""
        # Not numpy's: it keeps a file open for each map, and there may be thousands.
        mapped = torch.from_file(str(self.ids), shared=False, size=self.num_tokens, dtype=torch.int32).numpy()
        mapped.flags.writeable = False
        return mapped

    def read_index(self) -> dict[str, NDArray[Any]]:
        """``lengths``, and each column under its name behind a colon."""
        with np.load(self.index, allow_pickle=False) as arrays:
            return dict(arrays)


@attrs.frozen
class Part:
    """Documents made of some records of a source."""

    ids: Sequence[NDArray[np.int32]]
    """(n,) of each."""
    state: SourceState
    """Where the source goes on behind these records."""
    columns: Columns = attrs.field(factory=dict)


class TokenStore:
    """The ids of D documents, T in all. Rows are views of them, so nothing is stored twice.

    Args:
        shards: the ids, in order; no document is cut in two.
        offsets: (D + 1,): document d is ``span(offsets[d], offsets[d + 1])``.
        digest: SHA-256 of ids and offsets, in hexadecimal.
        columns: of the documents.
    """

    def __init__(
        self,
        shards: Sequence[Shard | NDArray[np.int32]],
        offsets: NDArray[np.int64],
        digest: str,
        columns: Columns | None = None,
    ) -> None:
        self._places = tuple(shards)
        self._shards = [each.read_ids() if isinstance(each, Shard) else each for each in shards]
        self._starts = offsets_of([len(each) for each in self._shards])
        self.offsets = offsets
        self.digest = digest
        self.columns = columns or {}

    @classmethod
    def of_files(cls, shards: Sequence[Shard], digest: str) -> "TokenStore":
        """What a :class:`TokenWriter` left.

        Raises:
            OSError: a file is not there or cannot be read.
        """
        indices = [shard.read_index() for shard in shards]
        lengths = np.concatenate([np.zeros(0, np.int64), *(index.pop("lengths") for index in indices)])
        columns = _joined([{name[1:]: column for name, column in index.items()} for index in indices])
        return cls(shards, offsets_of(lengths), digest, columns)

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.offsets[-1])

    def span(self, start: int, stop: int) -> NDArray[np.int32]:
        """The ids from ``start`` to ``stop``, at least one, all of them of one document."""
        number = int(self._starts.searchsorted(start, side="right")) - 1
        first = int(self._starts[number])
        return self._shards[number][start - first : stop - first]

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process that is not forked opens the files again instead of being sent gigabytes.
        return (TokenStore, (self._places, self.offsets, self.digest, self.columns))


class TokenWriter:
    """Collects documents for a :class:`TokenStore`.

    Args:
        shard_tokens: as soon as this many ids are there they are written as a shard, together with the last of them.
        folder: where the shards go, all of them. None: into RAM, and from the second on into a temporary folder, which
            is removed with the store, or with this where it never comes to one.
        shards: what the folder holds already, and the hash of its ids.
    """

    def __init__(
        self,
        *,
        shard_tokens: int = SHARD_TOKENS,
        folder: Path | None = None,
        shards: Iterable[Shard] = (),
    ) -> None:
        self._shard_tokens = shard_tokens
        self._folder = folder
        self._forget: weakref.finalize[Any, Any] | None = None
        self._ids: list[NDArray[np.int32]] = []
        self._columns: list[Columns] = []
        self._num_tokens = 0
        self._hash = hashlib.sha256()
        self.shards = list(shards)
        for shard in self.shards:
            self._hash.update(shard.read_ids().data)

    def append(self, ids: Sequence[NDArray[np.int32]], columns: Columns | None = None) -> bool:
        """Add documents: (n,) ids of each. Returns whether everything so far is in files now."""
        for each in ids:
            self._hash.update(each.tobytes())
        self._ids += ids
        self._columns += [columns] if columns else []
        self._num_tokens += sum(map(len, ids))
        if self._num_tokens < self._shard_tokens:
            return False
        self._write()
        return True

    def finish(self) -> TokenStore:
        """Everything that was added."""
        if self._folder is None:
            offsets = offsets_of([len(each) for each in self._ids])
            tokens = np.concatenate([np.zeros(0, np.int32), *self._ids])
            return TokenStore([tokens], offsets, self._digest(offsets), _joined(self._columns))
        if self._ids:
            self._write()
        store = TokenStore.of_files(self.shards, digest="")
        store.digest = self._digest(store.offsets)
        if self._forget is not None:
            self._forget.detach()
            weakref.finalize(store, _remove, self._folder, os.getpid())
        return store

    def _digest(self, offsets: NDArray[np.int64]) -> str:
        self._hash.update(offsets.tobytes())
        return self._hash.hexdigest()

    def _write(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="dlm-tokens-"))
            self._forget = weakref.finalize(self, _remove, self._folder, os.getpid())
        shard = Shard(self._folder / f"{len(self.shards):05}.ids", self._num_tokens, len(self._ids))
        with shard.ids.open("wb") as file:
            file.write(np.concatenate(self._ids).data)
        lengths = np.asarray([len(each) for each in self._ids], np.int64)
        named: dict[str, Any] = {f":{name}": column for name, column in _joined(self._columns).items()}
        with shard.index.open("wb") as file:
            np.savez(file, lengths=lengths, **named)
        self.shards.append(shard)
        self._ids.clear()
        self._columns.clear()
        self._num_tokens = 0


def offsets_of(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """(n + 1,) where each of n things starts if they lie end to end, and where the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _joined(parts: Sequence[Columns]) -> dict[str, NDArray[Any]]:
    """Columns end to end; one that a part does not have is NaN there."""
    sizes = [len(next(iter(part.values()))) for part in parts if part]
    names = dict.fromkeys(name for part in parts for name in part)
    filled = [part for part in parts if part]
    return {
        name: np.concatenate(
            [
                part[name] if name in part else np.full(size, np.nan, np.float32)
                for part, size in zip(filled, sizes, strict=True)
            ]
        )
        for name in names
    }


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker must not take the files away from its parent
        shutil.rmtree(folder, ignore_errors=True)
