"""Code that passes tests: an answer's code runs in a process of its own, within limits; its results are compared."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import and_, ge, gt, le, min_len
from torch import Tensor

from dlm_builtin_plugins.answer_checks import compiled
from dlm_builtin_plugins.rewards.columns import values_in
from dlm_plugins import RewardItem, RewardRequest

_FENCED = r"(?s)```[^\n`]*\n(.*?)(?:```|\z)"


@attrs.frozen(kw_only=True)
class TestsReward:
    """1 for an answer whose code passes all tests of a column, else 0; with ``partial`` the share of those it passes.

    Tests are texts ``assert add(1, 2) == 3`` or mappings ``{call: add(1, 2), expected: 3}``. The code is the answer's
    last fenced block, or all of it. It runs in a process of its own, limited in time, memory, files and processes, and
    hands back plain values, which are compared outside of it (docs/rewards.md says what it could still do). Only the
    standard library is there.
    """

    __test__: ClassVar[bool] = False  # pytest takes a class of this name for tests
    runs_code: ClassVar[bool] = True

    column: str = attrs.field(
        default="tests", validator=min_len(1), metadata={"help": "Column with a test, or with a list of tests."}
    )
    partial: bool = attrs.field(
        default=False,
        validator=attrs.validators.instance_of(bool),
        metadata={"help": "Whether an answer that passes some of the tests earns their share."},
    )
    seconds: float = attrs.field(
        default=5.0,
        validator=and_(gt(0), le(3600)),
        metadata={"help": "How long the code may run, for all tests together."},
    )
    memory_mb: int = attrs.field(
        default=512, validator=and_(ge(64), le(2**20)), metadata={"help": "Memory that it may have, in MiB."}
    )

    @property
    def columns(self) -> dict[str, Any]:
        """The one column that is read."""
        return {self.column: ["assert add(1, 2) == 3"]}

    def score(self, request: RewardRequest) -> Tensor:
        """Run the answers, as many at a time as there are processors.

        Raises:
            ValueError: a row without tests, or with others than those above.
            RuntimeError: this machine cannot run code within the limits.
        """
        from dlm_builtin_plugins.code_execution import check_that_code_runs

        check_that_code_runs(self.memory_mb * 2**20)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            return torch.tensor(list(pool.map(self._score, request.items)), dtype=torch.float32)

    def _score(self, item: RewardItem) -> float:
        from dlm_builtin_plugins.code_execution import passed, read_call  # not before code is run

        calls = [read_call(test) for test in _tests_of(item, self.column)]
        code = _code_of(item.answer)
        if not code.strip():
            return 0.0
        found = passed(code, calls, seconds=self.seconds, memory=self.memory_mb * 2**20)
        return sum(found) / len(found) if self.partial else float(all(found))


def _tests_of(item: RewardItem, column: str) -> list[Any]:
    tests = values_in(item, column)
    if not tests:
        raise ValueError(f"column {column!r} has no test in it")
    return tests


def _code_of(answer: str) -> str:
    text = answer.encode("utf-8", "replace").decode("utf-8")
    blocks: list[str] = compiled(_FENCED).findall(text)
    return blocks[-1] if blocks else text
