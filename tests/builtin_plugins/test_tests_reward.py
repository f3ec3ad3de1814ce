"""The reward that runs code: which answers pass, how tests are written, and what the process may do."""

import platform
import sys
from typing import Any

import pytest

from dlm_builtin_plugins.code_execution import is_same, read_call
from dlm_builtin_plugins.code_runner import plain
from dlm_builtin_plugins.rewards.code_tests import TestsReward
from dlm_plugins import RewardItem, RewardRequest

SQUARE = "def f(x): return x * x"
needs_filter = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="a filter of Linux's"
)


def score(answer: str, *tests: Any, **options: Any) -> float:
    item = RewardItem(answer=answer, columns={"tests": list(tests) or ["assert f(7) == 49"]})
    return TestsReward(**options).score(RewardRequest(items=[item])).item()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (SQUARE, 1.0),
        (f"It is:\n```python\n{SQUARE}\n```\nas asked.", 1.0),
        (f"```\ndef f(x): return 0\n```\nor rather\n```py\n{SQUARE}", 1.0),
        (
            "import math, re, collections, itertools, functools, heapq, random\ndef f(x): return math.comb(x, 2) + 28",
            1.0,
        ),
        ("print('working')\nimport sys\nsys.stderr.write('hard')\n" + SQUARE, 1.0),
        ("def f(x): return 48", 0.0),
        ("def f(x): return '49'", 0.0),
        ("def g(x): return 49", 0.0),
        ("", 0.0),
        ("It is 49.", 0.0),
    ],
)
def test_code_that_passes_earns_1(answer: str, expected: float) -> None:
    assert score(answer) == expected


def test_a_share_is_earned_where_partial_says_so() -> None:
    tests = ("assert f(7) == 49", {"call": "f(3)", "expected": 8}, "assert f(2) == 4", "assert f(1) == 2")
    assert score(SQUARE, *tests) == 0.0
    assert score(SQUARE, *tests, partial=True) == 0.5


def test_a_call_that_fails_does_not_take_the_others_with_it() -> None:
    code = "def f(x):\n    if x: raise SystemExit(0)\n    return 0"
    assert score(code, "assert f(1) == 1", "assert f(0) == 0", partial=True) == 0.5


@needs_filter
@pytest.mark.parametrize(
    "attempt",
    [
        "open('x', 'w')",
        "os.mkdir('x')",
        "os.fork()",
        "subprocess.run(['true'])",
        "socket.socket()",
        "os.kill(os.getppid(), 9)",
        "os.kill(os.getpid(), 0)",
        "os.setsid()",
    ],
)
def test_what_the_process_may_not_do_is_refused_by_the_kernel(attempt: str) -> None:
    code = f"import os, socket, subprocess\ndef f():\n    try: {attempt}\n    except PermissionError: return 'refused'"
    assert score(code, "assert f() == 'refused'") == 1.0


def test_nothing_of_our_environment_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert score("import os\ndef f(): return sorted(os.environ)", "assert f() == ['LC_CTYPE', 'PYTHONHASHSEED']") == 1.0


@pytest.mark.parametrize(
    ("test", "source", "expected"),
    [
        ("assert f(1) == (2, 'a')", "f(1)", [2, "a"]),
        ("  assert f(1)[0] == {1: {2}}, 'message'", "f(1)[0]", {"dict": [[1, {"set": [2]}]]}),
        ("assert f(1) is None", "f(1)", None),
        ("assert f('x == y')", "f('x == y')", True),
        ("assert not f(1)", "f(1)", False),
        ("assert f(1) == -1.5", "f(1)", -1.5),
        ({"call": "f(1)", "expected": [1]}, "f(1)", [1]),
    ],
)
def test_how_tests_are_written(test: object, source: str, expected: object) -> None:
    call = read_call(test)
    assert (call.source, call.expected) == (source, expected)


@pytest.mark.parametrize(
    "test",
    [
        "f(1) == 2",
        "assert f(1) == g(2)",
        "assert f(1) < 2",
        "assert f(1) == 2 == 2",
        "assert f(1) == 2j",
        "assert f(1) == 2; import os",
        "assert (",
        "",
        3,
        {"call": "f()"},
        {"call": "f()", "expected": object()},
    ],
)
def test_other_tests_are_refused_as_bad_rows(test: object) -> None:
    with pytest.raises(ValueError, match=r"a test must be|what a test expects must be"):
        score(SQUARE, test)


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"test": 1}, "no column 'tests'; its columns are test"), ({"tests": []}, "column 'tests' has no test in it")],
)
def test_rows_without_tests_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TestsReward().score(RewardRequest(items=[RewardItem(answer=SQUARE, columns=columns)]))


@pytest.mark.parametrize(
    ("found", "expected", "is_equal"),
    [
        (1, True, False),
        (True, 1, False),
        (1.0, 1, True),
        (0.1 + 0.2, 0.3, True),
        (0.31, 0.3, False),
        (10**400, 1.0, False),
        (float("inf"), float("inf"), True),
        ((1, [2]), [1, (2,)], True),
        ([1], [1, 2], False),
        ({1, 2}, frozenset({2, 1}), True),
        ({1}, [1], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ("", None, False),
        (type("E", (int,), {"__eq__": lambda *_: True})(3), 3, False),
        (object(), 3, False),
    ],
)
def test_values_are_compared_as_plain_ones(found: object, expected: object, is_equal: bool) -> None:
    assert is_same(plain(found), plain(expected)) is is_equal


def test_a_machine_on_which_no_code_runs_is_no_reason_to_judge_answers_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="no code can be run on this machine with 77 MiB"):
        score(SQUARE, memory_mb=77)
