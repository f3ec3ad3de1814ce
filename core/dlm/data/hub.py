"""Data sets of the library `datasets`: saved here with `save_to_disk`, or on the hub, which alone needs the network."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from dlm.data.file_identity import identity_of_files
from dlm.data.source_records import Origin, Record, RecordReader, Source, SourceState
from dlm.errors import DataError

_SPLITS_FILE = "dataset_dict.json"


@attrs.frozen
class DownloadedSource:
    """A ``datasets.Dataset`` that is here, downloaded or saved: backed by memory-mapped files."""

    name: str
    dataset: Any
    identity: str
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def num_records(self) -> int:
        """Number of rows."""
        return len(self.dataset)

    def open(self, state: SourceState | None = None) -> RecordReader:
        """Read from the start or from ``{"row": number}``, without touching the rows before it."""
        row = 0 if state is None else int(state["row"])
        rest = self.dataset.skip(row) if row < len(self.dataset) else ()
        return _DatasetReader(self.name, rest, {"row": row}, streamed=False)


@attrs.frozen
class StreamedSource:
    """A ``datasets.IterableDataset``: rows come as they are read, and their number is not known."""

    name: str
    dataset: Any
    identity: str
    notes: tuple[str, ...] = attrs.field(default=(), init=False)
    files: tuple[Path, ...] = attrs.field(default=(), init=False)
    num_records: None = attrs.field(default=None, init=False)

    def open(self, state: SourceState | None = None) -> RecordReader:
        """Read from the start, or from the position the ``datasets`` library gave for this stream."""
        # A stream keeps its position in itself, so every reader gets one of its own.
        stream = copy.deepcopy(self.dataset)
        if state is not None:
            stream.load_state_dict(state["stream"])
        return _DatasetReader(self.name, stream, state or {"row": 0, "stream": stream.state_dict()}, streamed=True)


class _DatasetReader:
    """``datasets`` does not shuffle: a resumed stream would lose what its buffer held. The stream of rows does."""

    def __init__(self, name: str, dataset: Any, start: SourceState, *, streamed: bool) -> None:
        self._name = name
        self._dataset = dataset
        self._start = start
        self._row = int(start["row"])
        self._streamed = streamed
        self._values = iter(dataset)

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        try:
            values = next(self._values)
        except StopIteration:
            raise
        except Exception as error:
            raise DataError(f"{self._name}, row {self._row}: could not be read: {_reason(error)}") from error
        record = Record(Origin(self._name, self._row), values)
        self._row += 1
        return record

    def state(self) -> SourceState:
        if self._row == self._start["row"]:
            return dict(self._start)  # a stream takes over the state it was given only with its first row
        position = {"row": self._row}
        return {**position, "stream": self._dataset.state_dict()} if self._streamed else position


def load_from_hub(name: str, *, split: str, streaming: bool) -> Source:
    """Load ``owner/name`` or ``owner/name:subset`` from the hub or from the local cache of it.

    Raises:
        DataError: the hub cannot be reached and the cache does not have it, or there is no such data set or split.
    """
    import datasets  # type: ignore[import-untyped]  # it ships no types

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    path, _, subset = name.partition(":")
    try:
        builder = datasets.load_dataset_builder(path, subset or None)
        identity = f"revision {builder.hash}"
        if streaming:
            return StreamedSource(name, builder.as_streaming_dataset(split=split), identity)
        builder.download_and_prepare()
        return DownloadedSource(name, builder.as_dataset(split=split), identity)
    except Exception as error:  # the library raises some dozen unrelated types here
        raise DataError(
            f"{name}: could not be loaded from the Hugging Face hub (split {split!r}): {_reason(error)}. If you meant "
            f"a file or folder, nothing of that name exists here; otherwise check the name, the network, and "
            f"HF_HUB_OFFLINE. Built in and always there: python-docs, sums"
        ) from error


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of the library ``datasets``."""
    one = all((folder / file).is_file() for file in ("state.json", "dataset_info.json"))
    return one or (folder / _SPLITS_FILE).is_file()


def load_from_disk(name: str, folder: Path, split: str) -> Source:
    """Load a folder of which :func:`is_saved` holds.

    Raises:
        DataError: it cannot be read, or has no such split.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # some dozen unrelated types
        raise DataError(f"{name}: a folder of save_to_disk that cannot be read: {_reason(error)}") from error
    splits = saved if (folder / _SPLITS_FILE).is_file() else {"train": saved}
    if split not in splits:
        raise DataError(f"{name}: no split {split!r} in this saved data set; splits here: {', '.join(splits)}")
    others = [each for each in splits if each != split]
    notes = (f"{name}: split {split} read, left out: {', '.join(others)}",) if others else ()
    # The library may lay caches of its own beside the data.
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("cache-"))
    # A format that was set before saving (numpy, some of the columns) would change what rows hold.
    plain = splits[split].with_format(None)
    return DownloadedSource(name, plain, identity_of_files(files), notes, tuple(files))


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
