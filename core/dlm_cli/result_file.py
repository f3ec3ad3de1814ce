"""``dlm generate --out``: results as JSON lines, in a file with a progress bar, or on the standard output."""

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dlm_plugins.streams import has_no_reader

if TYPE_CHECKING:
    from dlm.sampling.session import Result


def line_of(result: "Result") -> dict[str, Any]:
    """A result as a JSON object; an answer so that it can be trained on as it is."""
    line: dict[str, Any] = {
        "prompt": result.prompt,
        "sample": result.sample,
        "text": result.text,
        "ids": list(result.ids),
    }
    if result.answer_ids:
        line["input_ids"] = [*result.prompt_ids, *result.answer_ids]
        line["prompt_length"] = len(result.prompt_ids)
        line["step_map"] = list(result.step_map)
    return line


def print_line(result: "Result") -> None:
    """Print a result as a line of JSON, with escapes where the terminal's encoding has not every character."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    click.echo(json.dumps(line_of(result), ensure_ascii=not is_unicode))
    if has_no_reader():
        click.get_current_context().exit(0)


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
        """Write one result."""
        self._file.write(json.dumps(line_of(result), ensure_ascii=False) + "\n")
        self._file.flush()
        self._progress.advance(self._task)
