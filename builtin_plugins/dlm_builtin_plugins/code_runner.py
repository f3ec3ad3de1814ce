"""The process in which code of a model runs (sandbox): memory, time, no files written, no processes, no network.

Run by ``code_execution`` as a script with nothing but the standard library. It reads a task from standard input, limits
itself, runs the code, makes the calls, and writes ``[[value], ...]`` to standard output, ``[]`` for a call that failed.
"""

import ctypes
import json
import math
import os
import platform
import struct
import sys
from typing import Any

# The calls into the system that remain, by number: to read, to have memory, to know the time, to end.
_ALLOWED = {
    "x86_64": "0 1 3 4 5 6 7 8 9 10 11 12 13 14 15 17 19 20 21 23 24 25 28 32 35 39 60 63 79 89 96 98 99 100 102 104 "
    "107 108 110 131 186 201 202 204 217 219 228 229 230 231 262 267 269 273 318 332 334 439",
    "aarch64": "17 23 48 57 61 62 63 64 65 66 67 72 73 78 79 80 93 94 98 99 101 113 114 115 123 124 128 132 134 135 "
    "139 153 160 165 169 172 173 174 175 176 177 178 179 214 215 216 222 226 233 278 291 293 439",
}
_OPEN = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}
"""Numbers of ``open`` and ``openat``, each with the place of its flags: allowed to read, not to write."""
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # the latter: PermissionError
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06

_Task = dict[str, Any]


def plain(value: object) -> Any:
    """A value as JSON says it: lists for tuples; sets and mappings as their sorted items, with their type.

    Whatever is of any other type, also one that is derived from these, is unreadable, and equals nothing.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}  # type: ignore[arg-type]
    if kind in (list, tuple):
        return [plain(item) for item in value]  # type: ignore[attr-defined]
    if kind in (set, frozenset):
        return {"set": _sorted([plain(item) for item in value])}  # type: ignore[attr-defined]
    if kind is dict:
        return {"dict": _sorted([[plain(key), plain(item)] for key, item in value.items()])}  # type: ignore[attr-defined]
    return {"unreadable": kind.__name__}


def _sorted(items: list[Any]) -> list[Any]:
    return sorted(items, key=json.dumps)


def main() -> None:
    """Read the task, limit this process, run, and hand back what the calls returned."""
    task: _Task = json.load(sys.stdin)
    _limit(task)
    # For as long as the process lives; what is printed is nobody's.
    sys.stdin, sys.stdout = open(os.devnull), open(os.devnull, "w")  # noqa: SIM115
    _close_off()
    text = json.dumps(_results(task))
    os.write(1, text.encode())
    os._exit(0)


def _results(task: _Task) -> list[list[Any]]:
    names: dict[str, Any] = {"__name__": "answer"}
    try:
        exec(compile(task["code"], "answer", "exec"), names)
    except BaseException:
        return [[] for _ in task["calls"]]
    found = []
    for call in task["calls"]:
        try:
            value = plain(eval(call, names))
            json.dumps(value)
            found.append([value])
        except BaseException:
            found.append([])
    return found


def _limit(task: _Task) -> None:
    import resource  # not where there is no such thing; the process has ended then, and no answer is right

    for limit, value in (
        (resource.RLIMIT_AS, int(task["memory"])),
        (resource.RLIMIT_CPU, math.ceil(task["seconds"])),
        (resource.RLIMIT_FSIZE, int(task["output"])),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 1),
    ):
        highest = resource.getrlimit(limit)[1]
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(limit, (value, value))


def _close_off() -> None:
    """As much as the kernel allows: no network, and no calls but those above."""
    machine = platform.machine()
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, 9, 0, 0, 0)  # killed when the one who waits for us is gone
    libc.unshare(0x10000000 | 0x40000000)  # a network of its own, with nothing in it
    if machine not in _ALLOWED:
        return
    filters = b"".join(struct.pack("=HBBI", *each) for each in _program(machine))
    buffer = ctypes.create_string_buffer(filters, len(filters))
    program = struct.pack("HxxxxxxP", len(filters) // 8, ctypes.addressof(buffer))
    libc.prctl(38, 1, 0, 0, 0)
    libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0)


def _program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter (seccomp): instructions (code, how far to jump if true, if false, operand)."""
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURE[machine]), (_RETURN, 0, 0, _REFUSE), (_LOAD, 0, 0, 0)]
    for number in map(int, _ALLOWED[machine].split()):
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number, argument in _OPEN[machine]:
        flags = (_LOAD, 0, 0, 16 + 8 * argument)
        program += [(_EQUAL, 0, 4, number), flags, (_ANY_BIT, 1, 0, _WRITES), (_RETURN, 0, 0, _ALLOW)]
        program += [(_RETURN, 0, 0, _REFUSE)]
    return [*program, (_RETURN, 0, 0, _REFUSE)]


if __name__ == "__main__":
    main()
