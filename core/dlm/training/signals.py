"""Signals: the first SIGTERM or Ctrl-C ends the run after the current step, SIGUSR1 saves, a second one kills."""

import signal
from types import FrameType, TracebackType

from dlm.errors import ExitCode

_ENDINGS = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Signals:
    """Notes signals while it is entered; the engine asks between steps."""

    def __init__(self) -> None:
        self.ending: ExitCode | None = None
        """How to end after this step; None: go on."""
        self._save_requested = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        """Install the handlers (only the main thread may)."""
        wanted = [*_ENDINGS, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
        for number in wanted:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def take_save_request(self) -> bool:
        """Whether SIGUSR1 came since the last time this was asked."""
        requested, self._save_requested = self._save_requested, False
        return requested

    def _note(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if received not in _ENDINGS:
            self._save_requested = True
        elif self.ending is None:
            self.ending = _ENDINGS[received]
        else:
            raise KeyboardInterrupt
