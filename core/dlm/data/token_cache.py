"""The token cache: what was tokenized once, by any run, is mapped from a folder (DLM_CACHE) by all later ones."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import attrs
import cattrs
import tokenizers
import transformers
from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerBase

from dlm.data.source_records import Source, SourceState
from dlm.data.token_store import SHARD_TOKENS, Part, Shard, TokenStore, TokenWriter
from dlm.errors import DataError, UserInputError
from dlm.user_paths import user_path

VARIABLE = "DLM_CACHE"
"""The environment variable that names the folder of all caches; ``off`` keeps nothing."""
NOT_KEPT = "tokens: not kept"
"""How a line begins that says that there is no cache."""
_FORMAT = 2
_MANIFEST, _PROGRESS, _SEEN = "manifest.json", "progress.json", "seen.json"
_WAIT = 1.0
"""Seconds after which it is said that another process is waited for."""


class Recipe(Protocol):
    """How a source becomes documents of ids."""

    source: Source
    tokenizer: PreTrainedTokenizerBase
    findings: Any
    """What was noticed so far, beside the documents: an attrs object that cattrs can write as JSON and read again."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What the ids depend on beside source and tokenizer, for JSON."""
        ...

    def parts(self, state: SourceState | None = None) -> Iterator[Part]:
        """The documents from the start, or from behind an earlier part, while ``findings`` grow."""
        ...

    def check(self) -> None:
        """Report the findings, complete by now.

        Raises:
            DataError: the data set cannot be used.
        """
        ...


@attrs.frozen
class Tokenized:
    """All documents of a source."""

    store: TokenStore
    notes: Sequence[str]
    """Those of the source, from when it was read."""
    origin: tuple[str, ...]
    """Where the ids came from: a line each."""


@attrs.frozen
class _FileFacts:
    """What a file was when it was looked at."""

    name: str
    size: int
    sha256: str


@attrs.define(kw_only=True)
class _Contents:
    """What an entry holds: its manifest, or how far an interrupted one got."""

    format: int = _FORMAT
    key: dict[str, Any]
    """What the ids depend on."""
    sources: list[_FileFacts]
    """Files that were read."""
    files: list[_FileFacts] = attrs.field(factory=list)
    """Two for each shard."""
    shards: list[tuple[str, int, int]] = attrs.field(factory=list)
    """Name, tokens and documents."""
    state: SourceState | None = None
    findings: Any = None
    notes: list[str] = attrs.field(factory=list)
    digest: str = ""
    """Of the store; empty until it is complete."""


class _UnfitError(Exception):
    """An entry that cannot be used; the message says why."""


def cache_folder() -> Path | None:
    """Where caches are kept: ``DLM_CACHE``, else ``dlm`` in the user's cache folder; None where none is wanted.

    Raises:
        UserInputError: the variable is no path.
    """
    named = os.environ.get(VARIABLE, "")
    if named == "off":
        return None
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlm"
    try:
        return user_path(named) if named else default
    except UserInputError as error:
        raise UserInputError(f"{VARIABLE}: {error}") from None


def tokenized(
    recipe: Recipe, split: str | None, *, folder: Path | None = None, shard_tokens: int = SHARD_TOKENS
) -> Tokenized:
    """The documents of a source, from the cache if they are there, else made and kept there.

    Each process of a run calls this for itself. One of them makes what is missing, while the others wait for it, those
    of other runs too; if it is interrupted, the next one goes on where it was.

    Args:
        recipe: how they are made; its findings are complete afterwards.
        split: of the source; None: nothing is kept.
        folder: of the caches; None: what :func:`cache_folder` says.
        shard_tokens: ids in a file.

    Raises:
        DataError: the data set cannot be used.
        UserInputError: ``DLM_CACHE`` is no path.
    """
    if split is None:
        return _uncached(recipe, NOT_KEPT, shard_tokens)
    root = folder or cache_folder()
    if root is None:
        return _uncached(recipe, f"{NOT_KEPT} ({VARIABLE}=off)", shard_tokens)
    try:
        found = _Entry.of(recipe, split, root / "tokens").get(recipe, shard_tokens)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        reason = getattr(error, "strerror", None) or str(error)
        return _uncached(recipe, f"{NOT_KEPT} ({root}: {reason}); {VARIABLE} names another folder", shard_tokens)
    recipe.check()
    return found


def _uncached(recipe: Recipe, note: str, shard_tokens: int) -> Tokenized:
    writer = TokenWriter(shard_tokens=shard_tokens)
    recipe.findings = type(recipe.findings)()
    for part in recipe.parts():
        writer.append(part.ids, part.columns)
    recipe.check()
    return Tokenized(writer.finish(), recipe.source.notes, (note,))


@attrs.frozen
class _Entry:
    """The folder of one data set under one tokenizer."""

    path: Path
    key: dict[str, Any]

    @classmethod
    def of(cls, recipe: Recipe, split: str, root: Path) -> "_Entry":
        source = recipe.source
        data = {
            "name": source.name,
            "split": split,
            "identity": source.identity,
            "files": [str(path) for path in source.files],
            **recipe.settings,
        }
        reader = {
            "format": _FORMAT,
            "tokenizer": tokenizer_hash(recipe.tokenizer),
            "versions": {module.__name__: module.__version__ for module in (transformers, tokenizers)},
        }
        return cls(
            root / f"{_digest_of(data)[:16]}-{_digest_of(reader)[:16]}",
            json.loads(json.dumps({"data": data, **reader})),
        )

    def get(self, recipe: Recipe, shard_tokens: int) -> Tokenized:
        """What is here, or will be when this returns.

        Raises:
            OSError: the folder cannot be used.
        """
        try:
            contents = self._complete(recipe.source.files)
        except _UnfitError:
            with self._alone():
                try:  # another process may have made it meanwhile
                    contents = self._complete(recipe.source.files)
                except _UnfitError as unfit:
                    return self._make(recipe, shard_tokens, str(unfit))
        recipe.findings = cattrs.structure(contents.findings, type(recipe.findings))
        note = f"tokens: read from {self.path}, nothing is tokenized"
        return Tokenized(self._store(contents), contents.notes, (note,))

    def _complete(self, sources: Sequence[Path]) -> _Contents:
        """The manifest of an entry that is whole and of the same data."""
        if not self.path.exists():
            others = self.path.parent.glob(f"{self.path.name.partition('-')[0]}-*/{_MANIFEST}")
            raise _UnfitError("what is there is of another tokenizer" if any(others) else "")
        contents = _read(self.path / _MANIFEST, self.key)
        damaged = f"{self.path.name} is damaged"
        expected = [(self.path / facts.name, facts, f"{damaged}: {facts.name}") for facts in contents.files]
        expected += [
            (path, facts, f"{path} has changed") for path, facts in zip(sources, contents.sources, strict=True)
        ]
        seen = _read_seen(self.path)
        stamps = {}
        for path, facts, what in expected:
            try:
                stamps[str(path)] = stamp = _stamp(path)
                if stamp != seen.get(str(path)) and _facts(path) != attrs.evolve(facts, name=path.name):
                    raise _UnfitError(what)
            except OSError as error:
                raise _UnfitError(f"{what}: {error.strerror}") from None
        if stamps != seen:
            _write_seen(self.path, stamps)
        return contents

    def _store(self, contents: _Contents) -> TokenStore:
        return TokenStore.of_files(_shards(self.path, contents), contents.digest)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time, for as long as that takes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self.path}.lock")
        try:
            lock.acquire(timeout=_WAIT)
        except Timeout:
            if os.environ.get("LOCAL_RANK", "0") == "0":  # one on each host, which may have a cache of its own
                print("dlm: waiting for another process that tokenizes the same data", file=sys.stderr)
            lock.acquire(poll_interval=0.2)
        try:
            yield
        finally:
            lock.release()

    def _make(self, recipe: Recipe, shard_tokens: int, why: str) -> Tokenized:
        work = self.path.with_name(f"{self.path.name}.part")
        for old in self.path.parent.glob(f"{self.path.name}.old-*"):  # of a process that was killed below
            shutil.rmtree(old, ignore_errors=True)
        # Looked at before they are read: a file that changes meanwhile is then hashed again at the next start.
        seen = _stamps(recipe.source.files)
        contents = self._begun(work, recipe)
        num_before = sum(num_documents for _, _, num_documents in contents.shards)
        try:
            self._fill(work, contents, recipe, shard_tokens)
        except (DataError, OSError):  # what could be continued would end the same way
            shutil.rmtree(work, ignore_errors=True)
            raise
        if self.path.exists():
            old = self.path.with_name(f"{self.path.name}.old-{os.getpid()}")
            self.path.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        work.rename(self.path)
        _write_seen(self.path, {**_stamps(self.path / facts.name for facts in contents.files), **seen})
        notes = [f"tokens: made again, since {why}"] if why else []
        notes += [f"tokens: went on behind document {num_before:,}, where it had ended"] if num_before else []
        notes += [f"tokens: kept in {self.path} for later starts"]
        return Tokenized(self._store(contents), contents.notes, tuple(notes))

    def _begun(self, work: Path, recipe: Recipe) -> _Contents:
        """What an interrupted process left, if it can be continued; else a beginning."""
        sources = [_facts(path) for path in recipe.source.files]
        try:
            contents = _read(work / _PROGRESS, self.key)
            if contents.sources != sources or any(_facts(work / file.name) != file for file in contents.files):
                raise _UnfitError("")
            recipe.findings = cattrs.structure(contents.findings, type(recipe.findings))
            return contents
        except (OSError, _UnfitError):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            recipe.findings = type(recipe.findings)()
            return _Contents(key=self.key, sources=sources)

    def _fill(self, work: Path, contents: _Contents, recipe: Recipe, shard_tokens: int) -> None:
        writer = TokenWriter(shard_tokens=shard_tokens, folder=work, shards=_shards(work, contents))

        def keep(name: str, state: SourceState | None) -> None:
            for shard in writer.shards[len(contents.shards) :]:
                contents.shards.append((shard.ids.name, shard.num_tokens, shard.num_documents))
                for path in (shard.ids, shard.index):
                    _flush(path)
                    contents.files.append(_facts(path))
            contents.state, contents.findings = state, cattrs.unstructure(recipe.findings)
            _write(work / name, contents)

        for part in recipe.parts(contents.state):
            if writer.append(part.ids, part.columns):
                keep(_PROGRESS, part.state)
        contents.digest = writer.finish().digest
        contents.notes = list(recipe.source.notes)
        keep(_MANIFEST, None)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what the tokenizer would be saved as."""
    digest = hashlib.sha256(f"{type(tokenizer).__qualname__} {tokenizer.special_tokens_map}".encode())
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        # Every call sets or removes these.
        digest.update(json.dumps({**content, "truncation": None, "padding": None}).encode())
        return digest.hexdigest()
    with tempfile.TemporaryDirectory(prefix="dlm-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def _digest_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _shards(folder: Path, contents: _Contents) -> list[Shard]:
    return [Shard(folder / name, num_tokens, num_documents) for name, num_tokens, num_documents in contents.shards]


def _facts(path: Path) -> _FileFacts:
    with path.open("rb") as file:
        return _FileFacts(path.name, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _stamp(path: Path) -> list[int]:
    """What changes whenever a file is written: it need not be read again until then."""
    status = path.stat()
    # The last of them because archives and copies bring the time of the content along.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _stamps(paths: Iterable[Path]) -> dict[str, list[int]]:
    return {str(path): _stamp(path) for path in paths}


def _read_seen(folder: Path) -> dict[str, list[int]]:
    try:
        return dict(json.loads((folder / _SEEN).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write_seen(folder: Path, stamps: Mapping[str, list[int]]) -> None:
    with suppress(OSError):  # without it files are only read once more
        hidden = folder / f".{_SEEN}-{os.getpid()}"
        hidden.write_text(json.dumps(stamps), encoding="utf-8")
        hidden.replace(folder / _SEEN)


def _write(path: Path, contents: _Contents) -> None:
    """Write a file with its own digest, whole or not at all."""
    content = cattrs.unstructure(contents)
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(json.dumps({**content, "sha256": _digest_of(content)}, indent=1), encoding="utf-8")
    _flush(hidden)
    hidden.replace(path)


def _read(path: Path, key: Mapping[str, Any]) -> _Contents:
    """The inverse of :func:`_write`, for what was made with this key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_whole = content.pop("sha256") == _digest_of(content)
        contents = cattrs.structure(content, _Contents)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, cattrs.BaseValidationError) as error:
        raise _UnfitError(f"{path.parent.name} is damaged: {path.name}") from error
    if not is_whole or contents.key != key:
        raise _UnfitError(f"{path.parent.name} is damaged: {path.name}")
    return contents


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
