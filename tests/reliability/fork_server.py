"""A process that has imported everything, and forks a child for each run it is asked for.

Reads one JSON request a line, answers with one JSON line. Started as a script by the tests; see ``conftest.py``.
"""

import json
import mmap
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

FLAG_INSIDE, NUM_SAVES = 0, 1  # bytes that parent and child share


def main() -> None:
    """Serve until standard input ends."""
    torch.set_num_threads(1)
    import_everything()
    shared = mmap.mmap(-1, 2)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line), shared)), flush=True)


def import_everything() -> None:
    """What a run imports, so that a fork has it already."""
    import bitsandbytes  # noqa: F401
    from transformers.models.qwen3 import modeling_qwen3  # noqa: F401

    import dlm.training.run  # noqa: F401
    import dlm_cli.commands.run  # noqa: F401
    from dlm_plugins.registry import Registry

    Registry.discover()


def serve(request: dict[str, Any], shared: mmap.mmap) -> dict[str, Any]:
    """Run one child to its end, or kill it as the request says."""
    shared[:] = bytes(2)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        run_child(request, shared)
    killed = False
    due: float | None = None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        due = due if due is not None else kill_time(request, shared, started)
        if due is not None and time.monotonic() >= due and not killed:
            killed = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.0005)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "inside_save": bool(shared[FLAG_INSIDE]),
        "num_saves": shared[NUM_SAVES],
        "seconds": time.monotonic() - started,
    }


def kill_time(request: dict[str, Any], shared: mmap.mmap, started: float) -> float | None:
    """When to kill; None: not known yet, or never."""
    if request.get("kill_after") is not None:
        return started + float(request["kill_after"])
    if request.get("kill_in_save") is not None:
        number, seconds = request["kill_in_save"]
        if shared[NUM_SAVES] >= number:
            return time.monotonic() + float(seconds)
    return None


def run_child(request: dict[str, Any], shared: mmap.mmap) -> None:
    """``dlm run`` as the request says. Never returns."""
    code = 99
    try:
        with open(request["log"], "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["folder"])
        watch_saves(shared)
        watch_points(request)
        if request.get("inject"):
            import injections

            name, *arguments = request["inject"]
            getattr(injections, name)(*arguments)
        sys.argv = ["dlm", "run", request["config"], *request.get("arguments", [])]
        from dlm_cli.main import main as command

        command()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def watch_saves(shared: mmap.mmap) -> None:
    """Tell the parent when the child is inside a save."""
    from dlm.training.job import Job

    def watched(method: Any, is_start: bool) -> Any:
        def call(job: Job, *arguments: Any) -> Any:
            shared[NUM_SAVES] += is_start
            shared[FLAG_INSIDE] = 1
            result = method(job, *arguments)
            shared[FLAG_INSIDE] = 0
            return result

        return call

    Job.save = watched(Job.save, True)  # type: ignore[method-assign]
    Job.tidy = watched(Job.tidy, False)  # type: ignore[method-assign]
    Job.save_final = watched(Job.save_final, True)  # type: ignore[method-assign]


def watch_points(request: dict[str, Any]) -> None:
    """Replace ``reached`` by one that records, and dies at the n-th occurrence of a point."""
    seen: dict[str, int] = {}
    point_to_die, occurrence = request.get("die_at") or (None, 0)
    record = Path(request["record"]) if request.get("record") else None

    def reached(point: str) -> None:
        seen[point] = seen.get(point, 0) + 1
        if point == point_to_die and seen[point] == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)
        if record is not None:
            record.write_text(json.dumps(seen), encoding="utf-8")

    for name, module in list(sys.modules.items()):
        if name.startswith("dlm.training") and hasattr(module, "reached"):
            module.reached = reached  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
