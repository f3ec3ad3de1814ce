"""A process that has imported everything, and forks a child for each run it is asked for.

Reads one JSON request a line, answers with one JSON line. Started as a script by the tests; see ``conftest.py``.
"""

import faulthandler
import gc
import json
import mmap
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch

FLAG_INSIDE, NUM_SAVES = 0, 1  # bytes that parent and child share
PATIENCE = 60  # seconds after the end of one rank within which the others have to end by themselves


def main() -> None:
    """Serve until standard input ends."""
    torch.set_num_threads(1)
    import_everything()
    shared = mmap.mmap(-1, 2)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line), shared)), flush=True)


def import_everything() -> None:
    """What a run imports, so that a fork has it already, and does not look through it for garbage."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import transformers.optimization  # noqa: F401
    from transformers.models.qwen3 import modeling_qwen3  # noqa: F401

    import dlm_cli.commands.run  # noqa: F401
    from dlm.training import run, sharded_contents  # noqa: F401
    from dlm_cli import main  # noqa: F401
    from dlm_plugins.registry import Registry

    Registry.discover()
    gc.freeze()


def serve(request: dict[str, Any], shared: mmap.mmap) -> dict[str, Any]:
    """Run one child, or one for each rank, to the end; kill rank 0, or those that the request names, as it says."""
    shared[:] = bytes(2)
    started = time.monotonic()
    pids = fork_ranks(request, shared)
    codes: dict[int, int] = {}
    due = last_chance = None
    is_killed = False
    while len(codes) < len(pids):
        for rank, pid in enumerate(pids):
            done, status = (0, 0) if rank in codes else os.waitpid(pid, os.WNOHANG)
            if done:
                codes[rank] = os.waitstatus_to_exitcode(status)
                last_chance = time.monotonic() + PATIENCE + 5
        now = time.monotonic()
        due = due if due is not None else kill_time(request, shared, started)
        victims = set(request.get("victims", [0])) - set(codes)
        if due is not None and now >= due and not is_killed and victims:
            is_killed = True
            for rank in victims:
                os.kill(pids[rank], signal.SIGKILL)
        if last_chance is not None and now >= last_chance:
            for rank in set(range(len(pids))) - set(codes):
                os.kill(pids[rank], signal.SIGKILL)
        time.sleep(0.0005)
    return {
        "codes": [codes[rank] for rank in range(len(pids))],
        "inside_save": bool(shared[FLAG_INSIDE]),
        "num_saves": shared[NUM_SAVES],
        "seconds": time.monotonic() - started,
    }


def fork_ranks(request: dict[str, Any], shared: mmap.mmap) -> list[int]:
    """Start the children of a request; return their process ids."""
    num_processes, pids = int(request.get("num_processes", 1)), []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for rank in range(num_processes):
        if (pid := os.fork()) == 0:
            if num_processes > 1:
                names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
                values = (rank, rank, num_processes, num_processes, "127.0.0.1", port)
                os.environ.update(zip(names, map(str, values), strict=True))
            run_child(request, rank, shared)
        pids.append(pid)
    return pids


def kill_time(request: dict[str, Any], shared: mmap.mmap, started: float) -> float | None:
    """When to kill; None: not known yet, or never."""
    if request.get("kill_after") is not None:
        return started + float(request["kill_after"])
    if request.get("kill_in_save") is not None:
        number, seconds = request["kill_in_save"]
        if shared[NUM_SAVES] >= number:
            return time.monotonic() + float(seconds)
    return None


def run_child(request: dict[str, Any], rank: int, shared: mmap.mmap) -> None:
    """``dlm run`` as the request says. Never returns."""
    code = 99
    try:
        with open(request["log"], "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Where a child hangs, its log says where.
        faulthandler.dump_traceback_later(PATIENCE, file=2)
        os.chdir(request["folder"])
        if rank == 0:
            watch_saves(shared)
        if rank == request.get("die_rank", 0):
            watch_points(request)
        if request.get("scales"):
            import injections

            injections.scale_losses()
        if request.get("inject") and rank == request.get("inject_rank", 0):
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
    from dlm.training.saver import Saver

    def watched(method: Any) -> Any:
        def call(saver: Saver, *arguments: Any) -> Any:
            shared[NUM_SAVES] += 1
            shared[FLAG_INSIDE] = 1
            try:
                return method(saver, *arguments)
            finally:
                shared[FLAG_INSIDE] = 0

        return call

    Saver._publish = watched(Saver._publish)  # type: ignore[method-assign]
    Saver.save_final = watched(Saver.save_final)  # type: ignore[method-assign]


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
