"""What a model writes to be paid for nothing earns nothing, ends within its limit, leaves nothing behind."""

import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlm_builtin_plugins.rewards.code_tests import TestsReward
from dlm_builtin_plugins.rewards.form import PatternReward
from dlm_builtin_plugins.rewards.references import NumberReward
from dlm_plugins import RewardItem, RewardRequest

FULL = 500
SECONDS = 1.0
MARKER = "98765.4321"
IS_CLOSED_OFF = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


PLAIN_ATTACKS = (
    lambda n: "(" * n,
    lambda n: "[" * n + "]" * n,
    lambda n: "9" + "**9" * n,
    lambda n: "1" * n,
    lambda n: "1e" + "9" * n,
    lambda n: "1/" * n + "0",
    lambda n: "\\frac{" * n + "8}" * n,
    lambda n: "7 " * n + "8",
    lambda n: "-" * n + "8",
    lambda n: "7" + "!" * n + " 9",
    lambda n: "a" * n + "!",
    lambda n: "\u0663" * n,
    lambda n: "**" * n + "8" + "**" * n,
    lambda n: "7," * n + "1",
    lambda n: "\0" * n + "\ud800",
    lambda n: "\\boxed{" + "1" * n + "}",
    lambda n: "int.__eq__ = lambda *a: True  # " + "8" * n,
    lambda n: "x" * n + "\n" * n,
)
"""None of them, of any length, ends with the number 7, and none has the word `victory` in it."""

CODE_ATTACKS = (
    "while True: pass",
    "import time\nwhile True: time.sleep(1000)",
    "import signal\nfor n in (14, 15, 24): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
    "def f(x):\n    while True: x += 1",
    "x = [0]\nwhile True: x += x",
    "x = bytearray(10**{n})",
    "x = 10**10**{n}",
    "def f(x): return '7' * 10**{n}",
    "import sys; sys.exit(0)",
    "raise SystemExit(0)",
    "def f(x): raise SystemExit(0)",
    "import os; os._exit(0)",
    "def f(x):\n    import os; os._exit(0)",
    "import os; os.abort()",
    "import os\nwhile True: os.fork()",
    "import os\nif os.fork() == 0:\n    while True: pass",
    "import os\nos.setsid()\nif os.fork() == 0:\n    while True: pass",
    "import subprocess; subprocess.Popen(['sleep', '{marker}'])",
    "import os; os.execv('/bin/sleep', ['sleep', '{marker}'])",
    "import os; os.system('sleep {marker} &')",
    "import os; os.kill(os.getppid(), 9)",
    "import os; os.kill(-1, 9)",
    "import threading\nfor _ in range(10**4): threading.Thread(target=lambda: 1).start()",
    "import socket; socket.create_connection(('127.0.0.1', 9))",
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1')",
    "open('{folder}/written', 'w').write('x' * 10**9)",
    "import os; os.remove('{folder}/kept')",
    "import os; os.rename('{folder}/kept', '{folder}/written')",
    "import shutil; shutil.rmtree('{folder}')",
    "import os; os.truncate('{folder}/kept', 0)",
    "import os; os.chmod('{folder}/kept', 0)",
    "class E:\n    def __eq__(self, other): return True\n    def __hash__(self): return 49\ndef f(x): return E()",
    "class E(int):\n    def __eq__(self, other): return True\ndef f(x): return E(49)",
    "class E(str): pass\ndef f(x): return E('49')",
    "class E(list): pass\ndef f(x): return [E([49])]",
    "import builtins\nbuiltins.eval = lambda *a: None",
    "import json\njson.dumps = lambda *a, **k: '[true]'\ndef f(x): return 1",
    "import os\nos.write(1, b'[[true]]')\nos._exit(0)",
    "import os\nos.write(1, b'[' * 10**5)\nos._exit(0)",
    "import os\nwhile True: os.write(1, b'[[1]]' * 10**5)",
    "import sys\nprint('passed'); sys.stdout.write('[[true]]')",
    "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "import ctypes; ctypes.string_at(0)",
    "def f(x):\n    x = [x]\n    for _ in range(10**5): x = [x]\n    return x",
    "def f(x):\n    x = []\n    x.append(x)\n    return x",
    "def f(x): return float('nan')",
    "def f(x): return {{1: f}}",
    "def f(x): return True",
    "import gc\nfor each in gc.get_objects():\n    if isinstance(each, dict) and 'calls' in each: each['calls'] = []",
    "import inspect\ninspect.currentframe().f_back.f_locals['task']['calls'] = ['True']",
    "from typing import *\ndef f(x) -> Any: return NotImplemented",
    "(" * 1000,
    "f = " + "lambda x: " * 3000 + "49",
    "f" * 10**6,
    "#" * 10**6,
    "9" + "**9" * 10**4,
    "\0",
    "def f(x):\n\treturn 49\n        return 49",
)
"""None of them passes the test that f(7) is 49."""


def plain_answers(number: int) -> Iterator[str]:
    """Texts of up to a million characters."""
    chance = random.Random(13)
    for index in range(number):
        length = 10**6 // 7 if index % 40 == 39 else int(10 ** chance.uniform(0, 4))
        yield PLAIN_ATTACKS[index % len(PLAIN_ATTACKS)](length)


def code_answers(number: int, folder: str, marker: str) -> Iterator[str]:
    """Code in all its attacks, in random order, plainly and in fences, with sizes that change."""
    chance = random.Random(17)
    attacks = [CODE_ATTACKS[index % len(CODE_ATTACKS)] for index in range(number)]
    chance.shuffle(attacks)
    for attack in attacks:
        # Only those that say so have places to fill.
        code = attack.format(n=chance.randint(9, 12), folder=folder, marker=marker) if "{" in attack else attack
        yield f"So:\n```python\n{code}\n```\nDone." if chance.random() < 0.5 else code


def items(answers: list[str], **columns: object) -> list[RewardItem]:
    return [RewardItem(answer=answer, columns=columns) for answer in answers]


def commands() -> list[str]:
    """Of every process there is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return found


def test_no_text_earns_what_it_did_not(request: pytest.FixtureRequest) -> None:
    number = FULL if request.config.getoption("--full") else 3 * len(PLAIN_ATTACKS)
    answers = list(plain_answers(number))
    before = time.process_time()
    for reward in (NumberReward(), PatternReward(pattern=r"(v|vi|vic)*(victory)+\z")):
        scores = reward.score(RewardRequest(items=items(answers, answer="7"))).tolist()
        assert [answer[:40] for answer, score in zip(answers, scores, strict=True) if score != 0] == []
    assert time.process_time() - before < 0.1 * number
    right = items(["so it is a victory", "= 7"], answer="7")
    assert NumberReward().score(RewardRequest(items=right)).tolist() == [0.0, 1.0]
    assert PatternReward(pattern=r"victory\z").score(RewardRequest(items=right)).tolist() == [1.0, 0.0]


@pytest.mark.skipif(not IS_CLOSED_OFF, reason="files are protected by a filter of Linux on these machines")
def test_no_code_earns_what_it_did_not_and_none_outlives_its_limit(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "kept").write_text("kept")
    number = FULL if request.config.getoption("--full") else len(CODE_ATTACKS)
    answers = list(code_answers(number, str(tmp_path), MARKER))
    right = "def f(x): return x * x"
    reward = TestsReward(seconds=SECONDS, memory_mb=128)
    before = time.monotonic()
    judged = items([*answers, right], tests=["assert f(7) == 49"])
    scores = reward.score(RewardRequest(items=judged)).tolist()
    taken = time.monotonic() - before
    assert [answer[:200] for answer, score in zip(answers, scores, strict=False) if score != 0] == []
    assert reward.score(RewardRequest(items=judged[-1:])).tolist() == [1.0]  # the judge itself is none the worse
    # Each has its second; to start and to end one takes time too, on a busy machine a good deal.
    assert taken < number * (SECONDS + 3.0) / min(os.cpu_count() or 1, number) + 30
    assert [each for each in commands() if "code_runner.py" in each or MARKER in each] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (tmp_path / "kept").read_text() == "kept"
