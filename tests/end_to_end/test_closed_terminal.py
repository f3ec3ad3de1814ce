"""A terminal that is closed saves the run in it and ends it; under ``nohup`` the run goes on. With real terminals."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlm.errors import ExitCode
from dlm.training.checkpoints.checkpoint_store import CheckpointStore

DLM_RUN = [sys.executable, "-m", "dlm", "run", "run.yaml"]
PATIENCE = 300.0
"""Seconds; one or two are enough where nothing else runs."""
MANY_STEPS, FEW_STEPS = 3000, 30
RUN = {
    "training": {
        "output_dir": "out",
        "batch_size": 2,
        "checkpoint": {"every_steps": 10_000},
    },
    "dataset": {"name": "./texts.txt", "max_length": 24},
    "logging": {"every_steps": 1},
}


class Terminal:
    """A terminal with ``dlm run`` as its leader."""

    def __init__(self, folder: Path, output: str, max_steps: int, *, ignoring: bool) -> None:
        self.metrics = folder / output / "metrics.jsonl"
        self._reader, writer = pty.openpty()

        def take_over() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignoring else signal.SIG_DFL)

        self.process = subprocess.Popen(
            [*DLM_RUN, f"training.output_dir={output}", f"training.max_steps={max_steps}"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=writer,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
            preexec_fn=take_over,  # nothing else runs in this process
        )
        os.close(writer)

    def close(self) -> None:
        """Close it in the middle of the run."""
        os.set_blocking(self._reader, False)
        deadline = time.monotonic() + PATIENCE
        while self._num_steps() < 3:
            assert self.process.poll() is None, "it ended before"
            assert time.monotonic() < deadline
            try:
                os.read(self._reader, 4096)
            except BlockingIOError:
                time.sleep(0.005)
        os.close(self._reader)

    def _num_steps(self) -> int:
        return self.metrics.read_bytes().count(b"\n") if self.metrics.exists() else 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, smallest_model: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "run.yaml").write_text(yaml.safe_dump({**RUN, "model": smallest_model}), encoding="utf-8")
    (folder / "texts.txt").write_text("It is 49 degrees warm here.\n\n" * 60, encoding="utf-8")
    return folder


def test_a_run_is_saved_when_its_terminal_is_closed_and_goes_on_under_nohup(folder: Path) -> None:
    ended = Terminal(folder, "ended", MANY_STEPS, ignoring=False)
    lasting = Terminal(folder, "lasting", FEW_STEPS, ignoring=True)
    ended.close()
    lasting.close()
    assert ended.process.wait(PATIENCE) == ExitCode.HUNG_UP
    checkpoint, rejected = CheckpointStore(folder / "ended" / "checkpoints", keep_last=1).latest()
    assert checkpoint is not None
    assert not rejected
    assert f'"step": {checkpoint.name.partition("-")[2]},' in last_line(ended.metrics)
    assert lasting.process.wait(PATIENCE) == 0
    assert f'"step": {FEW_STEPS},' in last_line(lasting.metrics)


def last_line(file: Path) -> str:
    return file.read_text(encoding="utf-8").splitlines()[-1]
