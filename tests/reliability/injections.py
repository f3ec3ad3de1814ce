"""Faults that a forked run brings upon itself; each function installs one. Used by ``fork_server.py``."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator

WRITES = ("open", "os.mkdir", "os.rename", "os.truncate")


def _before_backward(action: Callable[[int], None]) -> None:
    """Call ``action`` with 1, 2, ... before each backward pass: in the middle of a step."""
    original, calls = Accelerator.backward, 0

    def backward(self: Accelerator, loss: torch.Tensor, **options: Any) -> None:
        nonlocal calls
        calls += 1
        action(calls)
        original(self, loss, **options)

    Accelerator.backward = backward


def die_in_backward(number: int) -> None:
    """Die before the n-th backward pass."""

    def die(call: int) -> None:
        if call == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _before_backward(die)


def die_in(place: str, number: int, share: float) -> None:
    """Die in the n-th call of a part of a step that learns from rewards, after a share of the time that calls take.

    At the latest when the call is about to return.
    """
    from dlm.training.answers import Judge
    from dlm.training.rollouts import Rollouts
    from dlm.training.saver import Saver
    from dlm.training.step import TrainingStep

    places: dict[str, tuple[Any, str]] = {
        "rollout": (Rollouts, "_answers"),
        "reward": (Judge, "__call__"),
        "update": (TrainingStep, "update"),
        "save": (Saver, "_publish"),
    }
    owner, name = places[place]
    original, calls, typical = getattr(owner, name), 0, 0.01

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls, typical
        calls += 1
        started = time.monotonic()
        if calls == number:
            threading.Timer(share * typical, os.kill, (os.getpid(), signal.SIGKILL)).start()
        result = original(*arguments, **options)
        typical = time.monotonic() - started
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, call)


def signal_in_backward(number: int, *names: str | float) -> None:
    """Send signals to this process before the n-th backward pass, with pauses of so many seconds between them."""

    def send(call: int) -> None:
        if call == number:
            for name in names:
                if isinstance(name, str):
                    os.kill(os.getpid(), signal.Signals[name])
                else:
                    time.sleep(name)

    _before_backward(send)


def sleep_in_backward(number: int, seconds: float) -> None:
    """Sleep before the n-th backward pass."""

    def wait(call: int) -> None:
        if call == number:
            time.sleep(seconds)

    _before_backward(wait)


def sleep_over_the_data(seconds: float) -> None:
    """Take longer to read the data."""
    from dlm.training import assembly

    assembly.prepare_data = _slowed(assembly.prepare_data, seconds)


def sleep_over_rewards(seconds: float) -> None:
    """Take longer to judge answers."""
    from dlm.training.answers import Judge

    Judge.__call__ = _slowed(Judge.__call__, seconds)


def _slowed(action: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slowly(*arguments: Any) -> Any:
        time.sleep(seconds)
        return action(*arguments)

    return slowly


def refuse_gloo() -> None:
    """Let no further connections be made, as where gloo takes a network interface that leads nowhere."""

    def refuse(**options: Any) -> None:
        raise RuntimeError("Gloo connectFullMesh failed with no route to host")

    torch.distributed.new_group = refuse


def have_another_run_file(override: str) -> None:
    """Read another run file than the other processes do."""
    from dlm import config

    load_config = config.load_config

    def load(path: str, overrides: tuple[str, ...], **options: Any) -> Any:
        return load_config(path, (*overrides, override), **options)

    config.load_config = load


def have_another_version(package: str, version: str) -> None:
    """Have a package in another version than the other processes."""
    sys.modules[package].__version__ = version  # type: ignore[attr-defined]


def stand_in(folder: str) -> None:
    """Let relative paths mean other files than to the other processes."""
    os.chdir(folder)


def sleep_in_save(wanted_save: int, seconds: float) -> None:
    """Sleep in the n-th save, on the process that writes."""

    def enter(number: int) -> None:
        if number == wanted_save:
            time.sleep(seconds)

    _around_publish(enter, lambda number: None)


def take_the_folder_in_a_save() -> None:
    """Let another process try to take the output folder in the first save; say which line it ends with."""

    take = "from pathlib import Path; from dlm.training.output_folder import FolderLock; FolderLock(Path('run')).take()"

    def enter(number: int) -> None:
        if number == 1:
            second = subprocess.run([sys.executable, "-c", take], capture_output=True, text=True)
            print(f"another process: {second.stderr.splitlines()[-1:]}", flush=True)

    _around_publish(enter, lambda number: None)


def evaluate_at_the_end_once_alone(patience: float) -> None:
    """Evaluate at the end only once the other processes have ended; fail where they do not within so many seconds."""
    from dlm.evaluation import at_end

    evaluate = at_end.evaluate

    def alone(*arguments: Any) -> Any:
        due = time.monotonic() + patience
        while len(psutil.Process(os.getppid()).children()) > 1:
            assert time.monotonic() < due, "others wait for the one that evaluates"
            time.sleep(0.05)
        return evaluate(*arguments)

    at_end.evaluate = alone


def poison_loss(steps: list[int], value: float) -> None:
    """Make the loss of these steps (from 1) something that is not finite."""
    from dlm.diffusion.objective import DiffusionObjective

    forward, is_now = DiffusionObjective.forward, _told_when(steps)

    def poisoned(self: Any, *arguments: Any) -> Any:
        total, sums = forward(self, *arguments)
        if is_now():
            total, sums = total * value, torch.cat((sums[:1] * value, sums[1:]))
        return total, sums

    DiffusionObjective.forward = poisoned  # type: ignore[method-assign]


def poison_gradient(steps: list[int], value: float) -> None:
    """Make one number of the gradient of these steps (from 1) something that is not finite; the loss stays."""
    from dlm.training.step import TrainingStep

    scale_and_clip, is_now = TrainingStep._scale_and_clip, _told_when(steps)

    def poisoned(self: Any, scale: torch.Tensor) -> torch.Tensor:
        if is_now():
            next(parameter.grad for parameter in self.objective.parameters()).view(-1)[0] = value
        return scale_and_clip(self, scale)

    TrainingStep._scale_and_clip = poisoned  # type: ignore[method-assign]


def _told_when(steps: list[int]) -> Callable[[], bool]:
    """A function that says whether one of these steps (from 1) is being taken."""
    from dlm.training.step import TrainingStep

    call, is_now = TrainingStep.__call__, False

    def step_call(self: Any, step_batch: Any, step: int, *others: Any) -> Any:
        nonlocal is_now
        is_now = step + 1 in steps
        try:
            return call(self, step_batch, step, *others)
        finally:
            is_now = False

    TrainingStep.__call__ = step_call  # type: ignore[method-assign]
    return lambda: is_now


def _around_publish(enter: Callable[[int], None], leave: Callable[[int], None]) -> None:
    """Call these around the n-th publication of a checkpoint."""
    from dlm.training.saver import Saver

    original, number = Saver._publish, 0

    def publish(self: Any, *arguments: Any) -> Any:
        nonlocal number
        number += 1
        enter(number)
        try:
            return original(self, *arguments)
        finally:
            leave(number)

    Saver._publish = publish  # type: ignore[method-assign]


def fill_disk_at_write(wanted_save: int, wanted_write: int, record: str | None = None) -> None:
    """Let the n-th operation of Python that writes, in the n-th save, find the disk full; record how many there are."""
    saving_thread, num_writes = 0, 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal num_writes
        if threading.get_ident() != saving_thread or event not in WRITES or not _needs_room(event, arguments):
            return
        num_writes += 1
        if num_writes == wanted_write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def enter(number: int) -> None:
        nonlocal saving_thread
        saving_thread = threading.get_ident() if number == wanted_save else 0

    def leave(number: int) -> None:
        nonlocal saving_thread
        saving_thread = 0
        if record is not None and number == wanted_save:
            Path(record).write_text(json.dumps(num_writes), encoding="utf-8")

    sys.addaudithook(hook)
    _around_publish(enter, leave)


def _needs_room(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "os.mkdir":
        return not os.path.isdir(arguments[0])  # where there is a folder already, that is what is reported
    if event != "open":
        return True
    _, mode, flags = arguments
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else any(c in str(mode) for c in "wax+")


def limit_file_size(wanted_save: int, num_bytes: int) -> None:
    """Let no file grow beyond so many bytes in the n-th save: what the writers outside Python meet too.

    The limit is one of the whole process, so training waits for the save.
    """
    from dlm.training.saver import Saver

    start = Saver.start

    def start_and_wait(self: Any, state: Any) -> None:
        start(self, state)
        self.close()

    Saver.start = start_and_wait  # type: ignore[method-assign]

    def enter(number: int) -> None:
        if number == wanted_save:
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    def leave(number: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    _around_publish(enter, leave)


def limit_file_size_of_helper(wanted_save: int, num_bytes: int) -> None:
    """The same in a process that writes its part of a sharded checkpoint, and no logs."""
    from dlm.training.sharded_contents import ShardedContents

    original, number = ShardedContents.help_to_write, 0

    def help_to_write(self: Any) -> None:
        nonlocal number
        number += 1
        if number == wanted_save:
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
        try:
            original(self)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    ShardedContents.help_to_write = help_to_write  # type: ignore[method-assign]


def report_full_disk(first_save: int, last_save: int) -> None:
    """Report no free space during these saves."""
    original = shutil.disk_usage

    def usage(path: Any) -> Any:
        return type(original(path))(1, 1, 0)

    def enter(number: int) -> None:
        shutil.disk_usage = usage if first_save <= number <= last_save else original  # type: ignore[assignment]

    _around_publish(enter, lambda number: None)


def refuse_appends(after: int) -> None:
    """Let every line of a log after the n-th find the disk full."""
    from dlm.training.output_folder import OutputFolder

    original, number = OutputFolder.append, 0

    def append(self: Any, name: str, record: Any) -> None:
        nonlocal number
        number += 1
        if number > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, name, record)

    OutputFolder.append = append  # type: ignore[method-assign]


def limit_memory(number: int, num_bytes: int) -> None:
    """Leave no more than so many bytes of memory to allocate, from the n-th backward pass on."""

    def limit(call: int) -> None:
        if call == number:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, resource.RLIM_INFINITY))
            torch.empty(2 * num_bytes, dtype=torch.uint8)

    _before_backward(limit)


def kill_worker(number: int) -> None:
    """Kill a data worker before the n-th backward pass."""
    import psutil

    def kill(call: int) -> None:
        if call == number:
            psutil.Process().children()[0].kill()

    _before_backward(kill)


def signal_workers(number: int, name: str) -> None:
    """Tell the whole group: this process and its data workers, before the n-th backward pass."""
    import psutil

    def send(call: int) -> None:
        if call == number:
            for process in (*psutil.Process().children(), psutil.Process()):
                process.send_signal(signal.Signals[name])

    _before_backward(send)


def scale_losses() -> None:
    """Train in fp16 as on a GPU: accelerate has no loss scaler for the CPU, so torch's own is put in its place."""
    original = Accelerator.__init__

    def init(self: Accelerator, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=2.0**10)

    Accelerator.__init__ = init  # type: ignore[method-assign]
