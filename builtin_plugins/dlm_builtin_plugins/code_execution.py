"""Run code that a model wrote, in a process of its own with limits, and read back what its calls returned (sandbox).

Nothing but JSON comes back, and it is compared here: what the code does to its own process (``sys.exit``, ``os._exit``,
objects that equal everything, another ``json``) decides nothing.
"""

import ast
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from dlm_builtin_plugins.code_runner import plain

_RUNNER = Path(__file__).with_name("code_runner.py")
_MOST_OUTPUT = 2**20
"""Bytes that the process may hand back."""


@attrs.frozen(kw_only=True)
class Call:
    """A call, and what it has to return."""

    source: str
    """An expression: ``add(1, 2)``."""
    expected: Any
    """As :func:`dlm_builtin_plugins.code_runner.plain` writes it."""


def read_call(test: object) -> Call:
    """A test as data sets have them: ``assert add(1, 2) == 3``, or a mapping ``{call: add(1, 2), expected: 3}``.

    Raises:
        ValueError: it is neither, or what is expected is no plain value.
    """
    if isinstance(test, str):
        return _read_assertion(test)
    if isinstance(test, dict) and isinstance(test.get("call"), str) and "expected" in test:
        return Call(source=test["call"], expected=_expected(test["expected"]))
    raise ValueError(f"a test must be `assert CALL == VALUE` or {{call, expected}}, not {str(test)[:60]!r}")


def _read_assertion(text: str) -> Call:
    try:
        (statement,) = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        statement = ast.Pass()
    if isinstance(statement, ast.Assert):
        test = statement.test
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return Call(source=ast.unparse(test.operand), expected=False)
        if isinstance(test, ast.Call):
            return Call(source=ast.unparse(test), expected=True)
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
            with suppress(ValueError):
                expected = _expected(ast.literal_eval(test.comparators[0]))
                return Call(source=ast.unparse(test.left), expected=expected)
    raise ValueError(f"a test must be `assert CALL == VALUE` with a plain value, not {text[:60]!r}")


def _expected(value: object) -> Any:
    found = plain(value)
    if "unreadable" in json.dumps(found):
        raise ValueError(f"what a test expects must be a plain value, not {str(value)[:60]!r}")
    return found


@cache
def check_that_code_runs(memory: int) -> None:
    """See to it that right code passes, within so many bytes.

    Raises:
        RuntimeError: it does not: every answer would be judged wrong.
    """
    if passed("def f(): return 49", [Call(source="f()", expected=49)], seconds=60, memory=memory) != [True]:
        raise RuntimeError(
            f"no code can be run on this machine with {memory >> 20} MiB of memory and the limits of docs/rewards.md; "
            "raise memory_mb, or use Linux"
        )


def passed(code: str, calls: Sequence[Call], *, seconds: float, memory: int) -> list[bool]:
    """Which of the calls return what they have to, once ``code`` has run.

    Args:
        code: what a model wrote.
        calls: all made in the same process, in this order.
        seconds: how long the process may take for all of them.
        memory: bytes of memory it may have.
    """
    returned = _run(code, [call.source for call in calls], seconds=seconds, memory=memory)
    if returned is None:
        return [False] * len(calls)
    pairs = zip(calls, returned, strict=True)
    return [isinstance(each, list) and len(each) == 1 and is_same(each[0], call.expected) for call, each in pairs]


def _run(code: str, calls: Sequence[str], *, seconds: float, memory: int) -> list[Any] | None:
    """``[value]`` for each call that returned, something else for every other; None where nothing usable came back."""
    task = json.dumps({"code": code, "calls": calls, "seconds": seconds, "memory": memory, "output": _MOST_OUTPUT})
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as result, tempfile.TemporaryDirectory() as folder:
        given.write(task.encode())
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-B", str(_RUNNER)],
            stdin=given,
            stdout=result,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},  # none of ours, which may hold secrets; sets in the same order every time
            start_new_session=True,
        )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)
        result.seek(0)
        return _read(result.read(_MOST_OUTPUT), len(calls))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of the process and of those it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(text: bytes, num_calls: int) -> list[Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, list) and len(found) == num_calls else None


def is_same(found: object, expected: object) -> bool:
    """Whether two plain values are equal; numbers that are not both integers to nine digits, and 1 is not true."""
    kinds = type(found), type(expected)
    if float in kinds and set(kinds) <= {int, float}:
        with suppress(OverflowError):
            return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)  # type: ignore[arg-type]
        return False
    if kinds[0] is not kinds[1]:
        return False
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(is_same, found, expected))
    if isinstance(expected, dict) and isinstance(found, dict):
        return found.keys() == expected.keys() and all(is_same(found[key], expected[key]) for key in expected)
    return found == expected
