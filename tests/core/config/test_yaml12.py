"""YAML 1.2 scalars, limits, and one line for whatever is not YAML."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from dlm.config.yaml12 import MAX_BYTES, MAX_DEPTH, YamlError, parse_yaml

Complaints = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3e-4", 3e-4),
        ("3.0e-4", 3e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1", -1),
        ("+7", 7),
        ("0o17", 15),
        ("0xff", 255),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2020-01-01", "2020-01-01"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("'3'", "3"),
        ('""', ""),
        ("!!str 3", "3"),
        ("-.inf", -math.inf),
        ("e5", "e5"),
        ("=", "="),
    ],
)
def test_scalars_follow_the_core_schema(text: str, expected: object) -> None:
    value = parse_yaml(f"key: {text}").value["key"]
    assert value == expected
    assert type(value) is type(expected)


def test_not_a_number_is_read_as_one() -> None:
    assert math.isnan(parse_yaml(".nan").value)


def test_lines_are_those_of_the_keys_and_items() -> None:
    document = parse_yaml("a:\n  b:\n    - 1\n    - 2\n\nc: {d: 1,\n  e: 2}\n")
    assert document.lines == {"": 1, "a": 1, "a.b": 2, "a.b[0]": 3, "a.b[1]": 4, "c": 6, "c.d": 6, "c.e": 7}


def test_aliases_are_expanded_into_values_of_their_own() -> None:
    value = parse_yaml("a: &x {k: 1}\nb: *x").value
    assert value == {"a": {"k": 1}, "b": {"k": 1}}
    assert value["a"] is not value["b"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\n\tb: 2", 2, "tab"),
        ("a: 1\n b: 2", 2, "not valid YAML"),
        ("a: 'x", 1, "not valid YAML"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
        ("a: 1\n---\nb: 2", 2, "single document"),
        ("a: 1\nb: *nobody", 2, "undefined alias"),
        ("a: 1\nb: \x07", 2, "#x0007"),
        ('a: "\\U00110000"', 1, "not readable"),
        ("a: &a [*a]", 1, "alias"),
        ("a: " + "[" * (MAX_DEPTH + 1), 1, "levels deep"),
        ("a: " + "[" * 100_000, 1, "levels deep"),
        ("a: [" + "1," * 30_000 + "]", 1, "more than 20000 values"),
    ],
)
def test_what_is_not_acceptable_yaml_is_refused_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(YamlError) as raised:
        parse_yaml(text)
    assert raised.value.line == line
    assert words in raised.value.message


def test_a_bomb_of_aliases_is_defused() -> None:
    text = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
    text += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    with pytest.raises(YamlError, match="aliases included"):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "run.yaml: the file is empty"),
        ("# nothing\n", "run.yaml: the file is empty"),
        ("- a\n- b\n", "run.yaml:1: the file must hold keys"),
        ("\njust words\n", "run.yaml:2: the file must hold keys"),
        (b"model: {name_or_path: caf\xe9}\n", "run.yaml:1: not UTF-8"),
        (b"a: 1\n" + b"#" * MAX_BYTES, "run.yaml: larger than"),
        (b"\xff\xfea\x00:\x00", "run.yaml:1: not UTF-8"),
    ],
)
def test_files_that_hold_no_run_are_refused_in_one_line(complaints: Complaints, text: Any, line: str) -> None:
    (found,) = complaints(text)
    assert found.startswith(line)


def test_a_missing_file_and_a_folder_are_named(complaints: Complaints, tmp_path: Any) -> None:
    from dlm.config import RunFileError, load_config

    for path, words in (
        (tmp_path / "nowhere.yaml", "no such file"),
        (tmp_path, "a folder"),
        ("a\0b", "no such file"),
    ):
        with pytest.raises(RunFileError, match=words) as raised:
            load_config(path)
        assert len(raised.value.lines) == 1


def test_a_byte_order_mark_is_no_obstacle(complaints: Complaints, minimal_text: str) -> None:
    assert complaints(b"\xef\xbb\xbf" + minimal_text.encode()) == []


def test_duplicate_keys_foreign_tags_and_keys_that_are_no_text_are_refused(
    complaints: Complaints, minimal_text: str
) -> None:
    text = minimal_text + "dataset:\n  name: x\noptim:\n  lr: !!python/object:os.system 1\n  3: 4\n  [1]: 2\n"
    assert complaints(text) == [
        "run.yaml:8: dataset: given twice, first in line 6; keep one",
        "run.yaml:11: optim.lr: the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed in a run file",
        "run.yaml:12: optim: a key must be text, not 3",
        "run.yaml:13: optim: a key must be text, not a list or a mapping",
    ]
