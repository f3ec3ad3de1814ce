"""Distributed runs: what rank 0 does for all, broadcast of its result; timeout, lost processes (exit 70), launcher.

No process waits longer for the others than ``training.parallel.timeout_seconds``. What rank 0 does alone may take
longer, and so may what each does for itself before the first step, as hosts differ: a process shows meanwhile that it
is at work (heartbeat). Who waits in vain, or for somebody who is gone, ends with exit code 70 and says for what,
whatever the backend would do (NCCL would abort the process, gloo raise). The launcher then ends what is left, and has
an exit code of its own: torchrun and accelerate launch say 1.
"""

import itertools
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import attrs
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import distributed
from torch.distributed import ProcessGroup

from dlm.config.run_config import TrainingConfig
from dlm.errors import DlmError, ExitCode, LostProcessError, UserInputError

T = TypeVar("T")

_GRACE_SECONDS = 30.0
"""How much later the process group gives up than we do: NCCL would leave no exit code and no words."""
_POLL_SECONDS = 0.1
_PLACE = re.compile(r"^\[\S*\] ")
"""The file of C++ at the beginning of a message."""


class Processes(Protocol):
    """Who does the work together; an ``Accelerator`` is such."""

    @property
    def process_index(self) -> int:
        """Number of this process."""

    @property
    def num_processes(self) -> int:
        """How many there are."""

    @property
    def device(self) -> torch.device:
        """Where this one computes."""


@attrs.frozen
class OneProcess:
    """This process does all of it, whoever else is there."""

    process_index: int = 0
    num_processes: int = 1
    device: torch.device = attrs.field(factory=lambda: torch.device("cpu"))


class _Watch:
    """What this process waits for, and the thread that ends it where it waits too long. One a process, as the group."""

    def __init__(self) -> None:
        self.timeout = 0.0
        self.where = ""
        self._waits: list[tuple[str, float]] = []
        self._thread: threading.Thread | None = None

    def start(self, timeout: float, rank: int, num_processes: int) -> None:
        """Watch from now on, with this timeout in seconds."""
        self.timeout, self.where = timeout, f"process {rank} of {num_processes}"
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dlm-waits", daemon=True)
            self._thread.start()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """While this process waits for ``what``."""
        self._waits.append((what, time.monotonic()))
        try:
            with _naming(what):
                yield
        finally:
            self._waits.pop()

    def in_vain(self, what: str) -> str:
        """The message of one that waited too long."""
        return (
            f"{self.where} waited {self.timeout:g} s for {what}, as long as training.parallel.timeout_seconds allows: "
            "another process hangs, is gone, or needs more time"
        )

    def _run(self) -> None:
        while True:
            time.sleep(min(1.0, self.timeout / 10))
            what, since = next(iter(self._waits[-1:]), ("", time.monotonic()))
            if time.monotonic() - since > self.timeout:
                # The main thread may be inside a collective that never returns.
                print(f"dlm: {self.in_vain(what)}", file=sys.stderr, flush=True)
                os._exit(ExitCode.BUG)


_watch = _Watch()
_turns = itertools.count()


def group_options(timeout: float) -> InitProcessGroupKwargs:
    """What accelerate is told of the process group.

    Args:
        timeout: seconds that processes wait for one another.
    """
    return InitProcessGroupKwargs(timeout=timedelta(seconds=timeout + _GRACE_SECONDS))


@contextmanager
def meeting(timeout: float) -> Iterator[None]:
    """Around what connects this process with those a launcher started beside it, at most ``timeout`` seconds.

    Raises:
        LostProcessError: They cannot be reached. Where they do not come, this process is ended.
    """
    if not is_launched():
        yield
        return
    _watch.start(timeout, int(os.environ.get("RANK", "0")), int(os.environ["WORLD_SIZE"]))
    with _watch.waiting("the other processes to start"):
        yield


def watch_waits(accelerator: Accelerator, timeout: float) -> None:
    """See to it that this process waits for the others no longer than ``timeout`` seconds at a time."""
    if accelerator.num_processes > 1:
        _watch.start(timeout, int(accelerator.process_index), int(accelerator.num_processes))


@contextmanager
def waiting_for(processes: Processes, what: str) -> Iterator[None]:
    """Around what needs the other processes, short enough that their work in it fits into the timeout.

    Raises:
        LostProcessError: Another process is gone. Where one hangs, this process is ended.
    """
    if processes.num_processes == 1:
        yield
        return
    with _watch.waiting(what):
        yield


@contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if failure := lost_process(error, what):
            raise failure from error
        raise


def lost_process(error: RuntimeError, what: str = "the others") -> LostProcessError | None:
    """What to say where ``error`` means that processes cannot reach each other; None: it means something else."""
    said = str(error)
    if not isinstance(error, distributed.DistError) and not any(name in said for name in ("gloo", "NCCL")):
        return None
    general, _, last = _PLACE.sub("", said).partition("Last error:")  # of NCCL, and says more than what is before it
    reason = (last.strip() or general).partition("\n")[0].partition(". ")[0]
    if "NCCL error in" in said and "ncclRemoteError" not in said:
        # A GPU that two processes were given, a network interface that does not lead to the others.
        return LostProcessError(
            f"{_watch.where} waited for {what}, and NCCL failed: {reason}. NCCL_DEBUG=INFO in the environment prints "
            "more; where another process ended first, what that one printed says why"
        )
    return LostProcessError(
        f"{_watch.where} waited for {what}, and another process is gone ({reason}); what that one printed says why. "
        "The same command goes on from the last checkpoint"
    )


def on_main(accelerator: Accelerator, action: Callable[[], T], what: str = "the main process") -> T:
    """Do something on the main process while the others wait; all get its result, or all raise its error.

    Args:
        accelerator: knows the processes. All must call.
        action: may take as long as it likes.
        what: is waited for, in the words of an error.

    Raises:
        RuntimeError: On the other processes, where the main one failed in a way that is no message for the user.
        LostProcessError: On the other processes, where the main one is gone or hangs.
    """
    if accelerator.num_processes == 1:
        return action()
    store, key = _store(), f"dlm/{next(_turns)}"
    result, failure = _done(store, key, action) if accelerator.is_main_process else _told(store, key, what)
    with waiting_for(accelerator, "the others to hear of it"):
        accelerator.wait_for_everyone()  # the store may end with the main process
    if failure is not None:
        raise failure
    done: T = result
    return done


def on_all(accelerator: Accelerator, action: Callable[[], T], what: str) -> T:
    """Do something on every process, at its own pace; whoever is done waits for the others. Each gets its own result.

    Args:
        accelerator: knows the processes. All must call.
        action: may take as long as it likes, and longer on one than on another.
        what: is waited for, in the words of an error.

    Raises:
        DlmError: On all of them, where one failed so.
        RuntimeError: On the others, where one failed in a way that is no message for the user.
        LostProcessError: Another process is gone or hangs.
    """
    if accelerator.num_processes == 1:
        return action()
    store, turn, results = _store(), next(_turns), list[T]()
    keys = [f"dlm/{turn}/{rank}" for rank in range(accelerator.num_processes)]
    _, failure = _done(store, keys[accelerator.process_index], lambda: results.append(action()))
    if failure is None:
        failure = next(filter(None, (_told(store, key, what)[1] for key in keys)), None)
    if failure is not None:
        raise failure
    with waiting_for(accelerator, what):
        accelerator.wait_for_everyone()
    return results[0]


def _store() -> Any:
    """What all processes can write to and, unlike a collective, ask again and again."""
    return distributed.distributed_c10d._get_default_store()


def _done(store: Any, key: str, action: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Do it, and put the result there for the others."""
    with _heartbeat(store, key):
        try:
            result, failure = action(), None
        except Exception as error:
            result, failure = None, error
    told = failure
    if failure is not None and not isinstance(failure, (DlmError, OSError)):
        told = RuntimeError(f"{_watch.where} failed: {failure}")
    store.set(key, pickle.dumps((result, told)))
    return result, failure


def _told(store: Any, key: str, what: str) -> tuple[Any, Exception | None]:
    """Wait until a process has put its result there, as long as its heart beats."""
    beats, since, pause = 0, time.monotonic(), 0.001
    with _naming(what):
        while not store.check([key]):
            if (now := store.add(f"{key}/beats", 0)) > beats:
                beats, since = now, time.monotonic()
            if time.monotonic() - since > _watch.timeout:
                raise LostProcessError(_watch.in_vain(what))
            time.sleep(pause)
            pause = min(2 * pause, _POLL_SECONDS)
        told: tuple[Any, Exception | None] = pickle.loads(store.get(key))  # of a process of this run
    return told


@contextmanager
def _heartbeat(store: Any, key: str) -> Iterator[None]:
    """Tell the others that this process is at work."""
    is_done = threading.Event()

    def beat() -> None:
        with suppress(distributed.DistError):  # nobody is left to be told
            while not is_done.wait(_watch.timeout / 10):
                store.add(f"{key}/beats", 1)

    thread = threading.Thread(target=beat, name="dlm-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


def group_of_threads(processes: Processes) -> ProcessGroup | None:
    """Connections between the processes for threads beside the training; None where there is one. All must call."""
    if processes.num_processes == 1:
        return None
    timeout = timedelta(seconds=_watch.timeout + _GRACE_SECONDS)
    with waiting_for(processes, "connections to the others for threads (gloo)"):
        group: ProcessGroup = distributed.new_group(backend="gloo", timeout=timeout)
    return group


def gather(processes: Processes, own: object, what: str, group: ProcessGroup | None = None) -> list[Any]:
    """What each process gives, in their order. All must call.

    Args:
        processes: more than one.
        own: what this one gives.
        what: is waited for, in the words of an error.
        group: connections to use; None: those of the training.
    """
    every: list[Any] = [None] * processes.num_processes
    with waiting_for(processes, what):
        distributed.all_gather_object(every, own, group=group)
    return every


def exchange(processes: Processes, what: str) -> Callable[[object], list[Any]]:
    """A function that takes something from each process, and gives to each what all gave, in their order.

    Args:
        processes: all must call, also the function.
        what: is waited for, in the words of an error.
    """
    group = group_of_threads(processes)  # its own: it does not matter what the training waits for meanwhile
    if group is None:
        return lambda own: [own]
    return lambda own: gather(processes, own, what, group)


def close_group(accelerator: Accelerator) -> None:
    """End the trackers and the connections between the processes.

    The model that accelerate prepared must be gone by then. What averages its gradients holds the connections too, and
    lets go of Python's lock only where Python itself drops them last: otherwise a process can wait for ever.
    """
    accelerator.free_memory()
    with waiting_for(accelerator, "the others to end"):
        accelerator.wait_for_everyone()  # whoever leaves first takes the connections of the others along
    accelerator.end_training()


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_launch(accelerator: Accelerator) -> None:
    """See that a run has the processes its launcher was asked for, and that they work together as they were told.

    Raises:
        UserInputError: It has not, or they do not.
    """
    if accelerator.num_processes > 1:
        return
    if is_launched():
        raise UserInputError(
            f"the launcher started {os.environ['WORLD_SIZE']} processes, but on {accelerator.device} each would train "
            "alone; start one, or set ACCELERATE_USE_CPU=true to train with several on the CPU"
        )
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        # What accelerate leaves in the environment of the one process it starts on a machine without a GPU.
        raise UserInputError(
            "accelerate launch was asked for several processes and started one, as it does where there is no GPU; "
            "say accelerate launch --multi_gpu --num_processes N, which works on the CPU too"
        )


def check_launch_settings(training: TrainingConfig) -> None:
    """See that a launcher was told nothing that the run file says otherwise: accelerate takes it from the environment.

    Raises:
        UserInputError: It was told to compile, to accumulate, or to compute in another precision.
    """
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    told = {
        "mixed_precision": os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
        "gradient_accumulation_steps": os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
        "compile": str(backend.lower() != "no"),
    }
    defaults = attrs.fields_dict(TrainingConfig)
    for key, value in told.items():
        here, there = str(getattr(training, key)).lower(), value.lower()
        if there not in (here, str(defaults[key].default).lower()):
            raise UserInputError(
                f"training.{key}: accelerate was told {there}, and the run file says {here}; say the same here, or "
                "take that out of accelerate's configuration"
            )
