"""What only a GPU can show: speed, MFU, memory, kernels against each other, precision, resumption; a few minutes.

    python benchmarks/gpu.py --out gpu.jsonl
    python benchmarks/gpu.py --only step-0.6b --only flex

Each part is a process of its own with a time limit. Parts that check run side by side, parts that measure run alone
after them. Every figure is written to ``--out`` as it comes (JSON lines), with a line for each case that was not
reached, and what a part prints to a ``.log`` beside it, so that nothing is lost where a part is cut off; one table is
printed at the end. Without a GPU it says so and exits with 0; ``--device cpu --tiny`` runs every line on tiny shapes,
whose figures mean nothing. Exit code 1 where a check failed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import attrs

ROOT = Path(__file__).parent.parent
TOTAL_SECONDS = 235  # and five to end: four minutes
NO_TIME = "no time was left; run it with --only"


@attrs.frozen(kw_only=True)
class Part:
    """What runs in one process."""

    seconds: int
    """Most that it may take; parts that measure share what time there is in proportion to it."""
    is_timed: bool = False
    """Whether it measures speed, and must have the machine for itself."""


PARTS = {
    "tests": Part(seconds=90),
    "resume": Part(seconds=110),
    "runs": Part(seconds=110),
    "processes": Part(seconds=110),
    "flex": Part(seconds=110),
    "precision": Part(seconds=90),
    "optimizers": Part(seconds=45, is_timed=True),
    "sampling": Part(seconds=80, is_timed=True),
    "step-8b": Part(seconds=80, is_timed=True),
    "step-0.6b": Part(seconds=100, is_timed=True),
}
"""Those that measure come in this order, so that what the short ones leave goes to the long ones."""


@attrs.frozen(kw_only=True)
class Started:
    """A part that waits to be let go, or runs."""

    process: subprocess.Popen[str]
    said: IO[str]

    def kill(self) -> None:
        """End it and what it started."""
        os.killpg(self.process.pid, 9)
        self.process.communicate()


@attrs.frozen(kw_only=True)
class Launcher:
    """Starts parts, and writes what became of those that did not end well."""

    out: Path
    device: str
    is_tiny: bool
    ends: float
    """``time.monotonic()`` at which everything has to be over."""

    def limit(self, name: str, after: Sequence[str] = ()) -> float:
        """Seconds for a part: what it may take, but no more than its share of what is left for all that follow."""
        left, wanted = self.ends - time.monotonic(), PARTS[name].seconds
        if self.is_tiny:
            return left  # a trial of the script may be one of many
        return min(float(wanted), left * wanted / (wanted + sum(PARTS[each].seconds for each in after)))

    def start(self, name: str) -> Started:
        """Start a part, which imports what it needs, longer than most cases take, and then waits to be let go."""
        command = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), name, str(self.out), self.device]
        command += ["--tiny"] if self.is_tiny else []
        # What the process and its children print; their figures go into the file.
        said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the part
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            text=True,
            env=self._environment(name),
            process_group=0,
        )
        return Started(process=process, said=said)

    def run(self, name: str, started: Started, after: Sequence[str] = ()) -> None:
        """Let a part run to its end or its limit; ``after``: those that still have to share the time with it."""
        limit = self.limit(name, after)
        # Figures that are missing fail nothing, a check that was not made does.
        missing = "left_out" if PARTS[name].is_timed else "error"
        with started.said:
            if limit < 5:
                started.kill()
                self._miss(name, missing, NO_TIME)
                return
            try:
                started.process.communicate("go\n", timeout=limit)
            except subprocess.TimeoutExpired:
                started.kill()
                self._keep(name, started.said)
                if self._not_reached(name):  # else it was about to end
                    self._miss(name, missing, f"cut off after {limit:.0f} s; run it with --only", others=NO_TIME)
                return
            lines, code = self._keep(name, started.said), started.process.returncode
            if code:
                print("\n".join(lines[-30:]), file=sys.stderr)
                reason = f"exit code {code}: {lines[-1] if lines else 'nothing was said'}"
                self._miss(name, "error", reason, others="the part had ended before")

    def _not_reached(self, name: str) -> list[dict[str, Any]]:
        """The cases that a part announced and has no figures for; where it announced none, one without a name."""
        lines = [line for line in read(self.out) if line["part"] == name]
        done = [line for line in lines if "planned" not in line]
        planned = [case for line in lines for case in line.get("planned", [])] or [{}]
        return [case for case in planned if not any(case.items() <= line.items() for line in done)]

    def _miss(self, name: str, key: str, reason: str, others: str | None = None) -> None:
        """Write why a part has no more figures: a line for each case that it announced and has none for."""
        first, *later = self._not_reached(name) or [{}]
        record(self.out, part=name, **first, **{key: reason})  # what it was at
        for case in later:
            record(self.out, part=name, **case, **{key: others})

    def _keep(self, name: str, said: IO[str]) -> list[str]:
        """Add what a part printed to the log beside the figures; return its lines."""
        said.seek(0)
        lines = [line.rstrip() for line in said if line.strip()]
        if lines:
            with self.out.with_suffix(".log").open("a", encoding="utf-8") as log:
                log.write("\n".join([f"### {name}", *lines, ""]))
        return lines

    def _environment(self, name: str) -> dict[str, str]:
        roots = [str(ROOT / folder) for folder in ("core", "plugins", "builtin_plugins")]
        path = os.pathsep.join([*roots, *filter(None, [os.environ.get("PYTHONPATH")])])
        use_cpu = {"ACCELERATE_USE_CPU": "true"} if self.device == "cpu" else {}
        # A compiler takes minutes, however tiny the shapes are.
        no_compiler = {"TORCH_COMPILE_DISABLE": "1"} if self.is_tiny else {}
        fixed = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        # Side by side, parts with a thread for each core each would mostly wait for each other.
        threads = max(1, (os.cpu_count() or 1) // sum(not part.is_timed for part in PARTS.values()))
        shared = {} if PARTS[name].is_timed else {"OMP_NUM_THREADS": str(threads)}
        return {**shared, **os.environ, **fixed, **use_cpu, **no_compiler}


def record(out: Path, **figures: Any) -> None:
    """Append one line with its time, which the table leaves out; it is on the disk when this returns."""
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**figures, "at": round(time.time(), 1)}) + "\n")


def read(out: Path) -> list[dict[str, Any]]:
    """All lines."""
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def machine(device: str) -> dict[str, Any]:
    """What the figures belong to."""
    import torch

    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": version("transformers"),  # asked without importing them, which takes seconds
        "accelerate": version("accelerate"),
        "card": "none",
        "driver": None,
    }
    if device == "cuda":
        found["card"] = torch.cuda.get_device_name()
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            found["driver"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            found["driver"] = "unknown: no nvidia-smi, or no answer"
    return found


def render(value: Any) -> str:
    """One cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def columns_of(row: dict[str, Any]) -> tuple[str, ...]:
    """What a line has of figures."""
    return tuple(key for key in row if key not in ("part", "at"))


def print_table(lines: Sequence[dict[str, Any]]) -> None:
    """The figures of each part below each other, in Markdown."""
    for name in dict.fromkeys(line["part"] for line in lines):
        print(f"\n### {name}\n")
        rows = [line for line in lines if line["part"] == name]
        # Lines with the same figures make one table.
        for columns in dict.fromkeys(columns_of(row) for row in rows):
            print("| " + " | ".join(column.replace("_", " ") for column in columns) + " |")
            print("|" + "---|" * len(columns))
            for row in rows:
                if columns_of(row) == columns:
                    print("| " + " | ".join(render(row[column]) for column in columns) + " |")
            print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(PARTS), help="this part; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="JSON lines; anew at each run")
    parser.add_argument("--seconds", type=int, default=TOTAL_SECONDS, help="everything is over after so long")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the script itself")
    arguments = parser.parse_args()
    ends = time.monotonic() + arguments.seconds

    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU here: nothing was measured")
        return
    out: Path = arguments.out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("")
    out.with_suffix(".log").write_text("")
    record(out, part="machine", **machine(arguments.device))
    launcher = Launcher(out=out, device=arguments.device, is_tiny=arguments.tiny, ends=ends)
    chosen = [name for name in PARTS if not arguments.only or name in arguments.only]
    started = {name: launcher.start(name) for name in chosen}
    with ThreadPoolExecutor(len(PARTS)) as pool:
        list(pool.map(lambda name: launcher.run(name, started[name]), [n for n in chosen if not PARTS[n].is_timed]))
    timed = [name for name in chosen if PARTS[name].is_timed]
    for number, name in enumerate(timed, 1):
        launcher.run(name, started[name], after=timed[number:])
    lines = [line for line in read(out) if "planned" not in line]
    print_table(lines)
    print(f"figures: {out}")
    sys.exit(1 if any("error" in line or line.get("holds") is False for line in lines) else 0)


if __name__ == "__main__":
    main()
