"""What a run prints while it trains: a progress bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingConsole:
    """Prints on the main process. The bar is there on a terminal only."""

    def __init__(self, *, num_steps: int, is_main: bool) -> None:
        self.console = Console(quiet=not is_main, highlight=False, soft_wrap=True)
        self._num_steps = num_steps
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
            disable=not (is_main and self.console.is_terminal),
        )
        self._task = self._progress.add_task("training", total=num_steps, start=False, figures="")

    @contextmanager
    def progress_from(self, step: int) -> Iterator[None]:
        """Show the bar meanwhile, from the restored step on."""
        self._progress.reset(self._task, completed=step, visible=True)
        with self._progress:
            yield

    def say(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, markup=False)

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def report(self, step: int, metrics: Mapping[str, object], tokens_per_second: float) -> None:
        """Show the figures of a logging window: in the bar on a terminal, as a line elsewhere."""
        if "reward" in metrics:  # where the loss says nothing of what is learned
            shown = (f"reward {_number(metrics['reward'])}", f"right {percent(metrics['right'])}")
            rest = f"even groups {percent(metrics['even_groups'])}"
        else:
            shown = (f"loss {_number(metrics['loss'])}", f"accuracy {percent(metrics['masked_accuracy'])}")
            rest = f"masked ce {_number(metrics['masked_ce'])}"
        if self.console.is_terminal:
            self._progress.update(self._task, figures="  ".join(shown))  # as much as 80 columns hold
        else:
            self.say(
                f"step {step}/{self._num_steps}  {shown[0]}  {rest}  {shown[1]}  "
                f"lr {_number(metrics['lr'])}  grad norm {_number(metrics['grad_norm'])}  "
                f"{tokens_per_second:,.0f} tokens/s"
            )


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.4g}"


def percent(value: object) -> str:
    """A share as a percentage; a dash where there is none."""
    return "-" if value is None else f"{100 * float(str(value)):.1f}%"
