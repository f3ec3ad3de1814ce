"""Files that changed have another identity; files that lie elsewhere have not."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.data import file_identity
from dlm.data.file_identity import identity_of_files
from dlm.errors import DataError

NAMES = st.sampled_from(["a.jsonl", "b.jsonl", "train/a.jsonl", "train/b.jsonl", "ab.jsonl"])
CONTENTS = st.dictionaries(NAMES, st.binary(max_size=40), min_size=1)


def identity_in(folder: Path, contents: dict[str, bytes]) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return identity_of_files([folder / name for name in sorted(contents)])


def visible(contents: dict[str, bytes], num_bytes: int) -> dict[str, object]:
    """What the identity promises to tell apart, worked out differently: files below their common folder."""
    whole = {name: (len(each), each[:num_bytes], each[-num_bytes:]) for name, each in contents.items()}
    folders = {name.rpartition("/")[0] for name in whole}
    only = f"{next(iter(folders))}/" if len(folders) == 1 else ""
    return {name.removeprefix(only): each for name, each in whole.items()}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=CONTENTS, after=CONTENTS, num_bytes=st.sampled_from([4, 64]))
def test_two_sets_of_files_are_the_same_only_if_all_that_is_looked_at_is(tmp_path, before, after, num_bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_identity, "_END_BYTES", num_bytes)
        first, second = identity_in(tmp_path / "x", before), identity_in(tmp_path / "elsewhere" / "y", after)
    assert (first == second) == (visible(before, num_bytes) == visible(after, num_bytes))


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), contents=CONTENTS)
def test_every_single_change_is_seen(tmp_path, data, contents) -> None:
    name = data.draw(st.sampled_from(sorted(contents)))
    old = contents[name]
    place = data.draw(st.integers(0, len(old)))
    changed = {
        "insert": {**contents, name: old[:place] + b"x" + old[place:]},
        "remove a file": {each: content for each, content in contents.items() if each != name},
        "add a file": {**contents, "new.jsonl": b""},
        "cut": {**contents, name: old[:place]},
        "another byte": {
            **contents,
            name: old[:place] + bytes(255 - byte for byte in old[place : place + 1]) + old[place + 1 :],
        },
    }
    before = identity_in(tmp_path / "x", contents)
    for what, after in changed.items():
        if after and after != contents:
            assert identity_in(tmp_path / "x", after) != before, what


def test_the_size_of_a_file_decides_nothing_about_the_cost(tmp_path) -> None:
    """A sparse file of a terabyte: only its ends are read."""
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert identity_of_files([path]).startswith("1 file, 1,099,511,627,776 bytes, sha256 ")


def test_a_file_that_is_gone_is_one_line(tmp_path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: could not be read: No such file"):
        identity_of_files([tmp_path / "gone.jsonl"])
