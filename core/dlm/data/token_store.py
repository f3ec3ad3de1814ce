"""Token ids of many documents, one after the other: in RAM, or in a temporary file when there are many."""

import hashlib
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPILL_BYTES = 1 << 28
"""From 256 MiB of ids on, they go to a file that is mapped into memory."""


class TokenStore:
    """The ids of D documents, T in all. Rows are views of ``tokens``, so nothing is stored twice."""

    tokens: NDArray[np.int32]
    """(T,) ids."""
    offsets: NDArray[np.int64]
    """(D + 1,): document d is ``tokens[offsets[d] : offsets[d + 1]]``."""
    digest: str
    """SHA-256 of ids and offsets, in hexadecimal."""

    def __init__(self, tokens: NDArray[np.int32] | Path, offsets: NDArray[np.int64], digest: str) -> None:
        self._path = tokens if isinstance(tokens, Path) else None
        self.tokens = np.memmap(tokens, dtype=np.int32, mode="r") if isinstance(tokens, Path) else tokens
        self.offsets = offsets
        self.digest = digest

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process that is not forked opens the file again instead of being sent gigabytes.
        return (TokenStore, (self._path or self.tokens, self.offsets, self.digest))


class TokenWriter:
    """Collects documents for a :class:`TokenStore`.

    Args:
        spill_bytes: size of the ids in bytes from which on they are kept in a file.
        folder: where that file is made; the system's temporary folder by default. It is removed with the store.
    """

    def __init__(self, *, spill_bytes: int = SPILL_BYTES, folder: Path | None = None) -> None:
        self._spill_bytes = spill_bytes
        self._folder = folder
        self._chunks: list[NDArray[np.int32]] = []
        self._lengths: list[int] = []
        self._num_bytes = 0
        self._path: Path | None = None
        self._hash = hashlib.sha256()

    def append(self, ids: NDArray[np.int32]) -> None:
        """Add a document: (n,) ids."""
        self._chunks.append(ids)
        self._lengths.append(len(ids))
        self._num_bytes += ids.nbytes
        self._hash.update(ids.tobytes())
        if self._num_bytes >= self._spill_bytes:
            self._spill()

    def finish(self) -> TokenStore:
        """Everything that was added."""
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._lengths, dtype=np.int64)])
        self._hash.update(offsets.tobytes())
        if self._path is None:
            tokens = np.concatenate([np.zeros(0, np.int32), *self._chunks])
            return TokenStore(tokens, offsets, self._hash.hexdigest())
        self._spill()
        store = TokenStore(self._path, offsets, self._hash.hexdigest())
        weakref.finalize(store, _remove, self._path, os.getpid())
        return store

    def _spill(self) -> None:
        if self._path is None:
            handle, name = tempfile.mkstemp(prefix="dlm-tokens-", dir=self._folder)
            os.close(handle)
            self._path = Path(name)
        with self._path.open("ab") as file:
            for chunk in self._chunks:
                chunk.tofile(file)
        self._chunks.clear()
        self._num_bytes = 0


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker must not take the file away from its parent
        path.unlink(missing_ok=True)
