import os
from pathlib import Path

import pytest

from dlm.errors import UserInputError
from dlm.user_paths import user_path


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PLACE", "some/where")
    monkeypatch.delenv("NOT_SET", raising=False)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
        ("$PLACE/x", "some/where/x"),
        ("${PLACE}/x$PLACE", "some/where/xsome/where"),
        ("~/$PLACE", "/home/me/some/where"),
        ("runs/a", "runs/a"),
        ("../a~b", "../a~b"),
        ("costs/5$", "costs/5$"),
        (Path("~/x"), "/home/me/x"),
    ],
)
def test_signs_are_filled_in(written: str | Path, meant: str) -> None:
    assert user_path(written) == Path(meant)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("$NOT_SET/x", "$NOT_SET/x: the environment variable NOT_SET is not set; write the path out"),
        ("${NOT_SET}", "the environment variable NOT_SET is not set"),
        ("~nobody-of-that-name/x", "there is no home folder for ~nobody-of-that-name"),
        ("a\0b", "'a\\x00b': no such file: a path cannot hold a NUL character"),
    ],
)
def test_signs_that_stand_for_nothing_are_refused(written: str, problem: str) -> None:
    with pytest.raises(UserInputError) as caught:
        user_path(written)
    assert problem in str(caught.value)


@pytest.mark.parametrize("name", ["$NOT_SET.jsonl", "~nobody-of-that-name"])
def test_files_whose_names_hold_such_signs_can_be_named(name: str) -> None:
    Path(name).touch()
    assert user_path(name) == Path(name)
    assert os.listdir() == [name]
