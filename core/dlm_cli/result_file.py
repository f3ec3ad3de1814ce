"""``dlm generate --out``: results as JSON lines, with a progress bar."""

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from dlm.sampling.session import Result


class ResultFile:
    """A file that grows by a line a result; the bar is shown on a terminal only."""

    def __init__(self, path: Path, num_results: int) -> None:
        self._file = path.open("w", encoding="utf-8")
        columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._progress.add_task(str(path), total=num_results)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()

    def write(self, result: "Result") -> None:
        """Write one result; an answer so that it can be trained on as it is."""
        line = {"prompt": result.prompt, "sample": result.sample, "text": result.text, "ids": list(result.ids)}
        if result.answer_ids:
            line["input_ids"] = [*result.prompt_ids, *result.answer_ids]
            line["prompt_length"] = len(result.prompt_ids)
            line["step_map"] = list(result.step_map)
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        self._progress.advance(self._task)
