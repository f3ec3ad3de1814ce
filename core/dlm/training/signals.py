"""Signals: SIGTERM, Ctrl-C or a closed terminal (SIGHUP) ends the run after this step, saved; SIGUSR1 only saves."""

import os
import signal
import time
from contextlib import suppress
from types import FrameType, TracebackType

import torch
from accelerate import Accelerator

from dlm.errors import ExitCode
from dlm.training.processes import waiting_for

_ENDINGS = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}
if hasattr(signal, "SIGHUP"):
    _ENDINGS[signal.SIGHUP] = ExitCode.HUNG_UP
_AT_ONCE = (signal.SIGINT, signal.SIGTERM)
"""What ends a run at once the second time. A terminal that goes away is told of by the shell and by the system, and
nobody is in a hurry.
"""
_ECHO_SECONDS = 1.0
"""A signal that comes again within this time is the same request: a launcher passes on the Ctrl-C of a terminal that
has told its processes already."""
_PROMISE = b"\ndlm: the run ends after this step, and saves; the same signal again ends it at once\n"


class Signals:
    """Notes signals while it is entered; the engine asks between steps."""

    def __init__(self, *, speaks: bool) -> None:
        self.ending: ExitCode | None = None
        """How to end after this step; None: go on."""
        self._noted_at = 0.0
        self._speaks = speaks
        self._owner = os.getpid()
        self._save_requested = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        """Install the handlers (only the main thread may)."""
        if hasattr(signal, "SIGCHLD"):
            self._previous[signal.SIGCHLD] = signal.getsignal(signal.SIGCHLD)
        for number in [*_ENDINGS, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]:
            if not _is_ignored_hang_up(number):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def agree(self, accelerator: Accelerator) -> tuple[ExitCode | None, bool]:
        """How to end, and whether to save, as any process was told. Waits for all of them."""
        wishes = [int(self.ending or 0), int(self.take_save_request())]
        if accelerator.num_processes > 1:
            with waiting_for(accelerator, "the others to end a step"):
                gathered = accelerator.gather(torch.tensor([wishes], device=accelerator.device))
                wishes = gathered.amax(dim=0).tolist()
        return ExitCode(wishes[0]) if wishes[0] else None, bool(wishes[1])

    def take_save_request(self) -> bool:
        """Whether SIGUSR1 came since the last time this was asked."""
        requested, self._save_requested = self._save_requested, False
        return requested

    def _note(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if os.getpid() != self._owner:
            return  # a data worker, which a terminal tells as well: it ends with its parent
        if received not in _ENDINGS:
            self._save_requested = True
        elif self.ending is None:
            self.ending = _ENDINGS[received]
            self._noted_at = time.monotonic()
            if hasattr(signal, "SIGCHLD"):
                # Whoever ends a whole group ends the data workers too: torch must not raise in the middle of the step.
                signal.signal(signal.SIGCHLD, _take_no_notice)
            if self._speaks:
                with suppress(OSError):
                    os.write(2, _PROMISE)
        elif (
            received in _AT_ONCE
            and self.ending == _ENDINGS[received]
            and time.monotonic() - self._noted_at > _ECHO_SECONDS
        ):
            raise KeyboardInterrupt if received == signal.SIGINT else SystemExit(int(self.ending))


def _is_ignored_hang_up(number: signal.Signals) -> bool:
    """Whether ``nohup``, or whoever started this process, wants it to outlive its terminal."""
    return number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN


def _take_no_notice(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing."""
