"""What ``dlm --help`` costs, beside a Python that does nothing.

    python benchmarks/help_time.py

Both are started in turns; the fastest of each counts, since whatever else runs on the machine only ever adds. Exit code
1 where the help takes longer than 0.3 s or torch was imported for it.
"""

import argparse
import json
import subprocess
import sys
import time

MAX_SECONDS = 0.3
HELP = (
    "import sys; from dlm_cli.main import main\n"
    "sys.argv = ['dlm', '--help']\n"
    "try:\n    main()\n"
    "except SystemExit as end:\n    sys.exit('torch was imported' if 'torch' in sys.modules else end.code)"
)


def seconds_of(code: str) -> float:
    """Wall time of one Python process from start to end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="how often each is started (10)")
    pairs = parser.parse_args().pairs
    times = [(seconds_of("pass"), seconds_of(HELP)) for _ in range(pairs)]
    nothing, shown = (min(column) for column in zip(*times, strict=True))
    figures = {"python_seconds": nothing, "help_seconds": shown, "ratio": shown / nothing}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    if shown > MAX_SECONDS:
        sys.exit(f"dlm --help took {shown:.3f} s, more than {MAX_SECONDS} s")


if __name__ == "__main__":
    main()
