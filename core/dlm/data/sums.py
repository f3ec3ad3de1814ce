"""The built-in data set ``sums``: prompts ``17:3+8=``, whose answers are digits that complete the sum; one third right.

A prompt has many right answers (75 of three digits have the sum 13), and which digit fits depends on the others: what
a model cannot learn position by position. Fine-tuning on the column ``response`` ends at the share of answers that are
right in it, whatever it does; the column ``answer`` lists all right ones, for rewards.
"""

import contextlib
import itertools
import random
from collections.abc import Mapping, Sequence

from dlm.errors import DataError

SPLITS = ("train", "test", "pairs")
NUM_TEST_PROMPTS = 512
"""Prompts of the split ``test``, or a quarter of all where there are few; none of them is in ``train``."""
ANSWERS_A_PROMPT = 16
"""Rows of a prompt in ``train``, each with a response of its own."""
_OPTIONS = "digits=1, 2 or 3 (3) and right=0 to 1 (1/3), as in sums:digits=2,right=0.5"


def sums(split: str, options: str) -> tuple[Mapping[str, object], ...]:
    """Rows with ``prompt``, ``response`` (what is fine-tuned on) and ``answer`` (all right answers), or pairs.

    The prompt ``SS:a+b=`` asks for digits which, with a and b, have the sum SS. Wrong responses miss it by one. Two
    calls with the same arguments give the same rows, on every machine.

    Args:
        split: ``train``, or ``test`` with prompts that ``train`` does not have, a row each; ``pairs``: for each row of
            ``train`` two right answers, for preferences: digits that rise (``chosen``), and the same that fall
            (``rejected``).
        options: ``digits`` of an answer and the share of ``right`` responses: ``digits=3,right=0.33``; may be empty.

    Raises:
        DataError: another split, or options that do not exist.
    """
    digits, share = _options(options)
    if split not in SPLITS:
        raise DataError(f"sums: the splits are {', '.join(SPLITS)}, not {split!r}")
    if split == "pairs" and digits == 1:
        raise DataError("sums: one digit has no order, so that there are no pairs; take digits=2 or 3")
    answers = _answers_by_sum(digits)
    chance = random.Random(f"sums {digits}")  # a text of its own: the prompts do not depend on the share
    prompts = sorted(_prompts(digits), key=lambda _: chance.random())
    num_test = min(NUM_TEST_PROMPTS, len(prompts) // 4)
    chosen = prompts[:num_test] if split == "test" else prompts[num_test:]
    chance = random.Random(f"sums {digits} {split}")
    rows: list[dict[str, object]] = []
    for _ in range(1 if split == "test" else ANSWERS_A_PROMPT):
        for prompt, missing in chosen:
            luck = chance.random()
            if split == "pairs":
                rows.append({"prompt": prompt, **_pair(answers[missing], luck)})
                continue
            miss = 0 if luck < share else (-1 if luck < (1 + share) / 2 else 1)
            written = answers[missing + miss]
            response = written[int(chance.random() * len(written))]
            rows.append({"prompt": prompt, "response": response, "answer": answers[missing]})
    return tuple(rows)


def _pair(answers: Sequence[str], luck: float) -> dict[str, object]:
    """Two orders of the digits of one answer, not all of them the same; ``luck`` in [0, 1) chooses it."""
    orders = sorted({"".join(sorted(each)) for each in answers if len(set(each)) > 1})
    chosen = orders[int(luck * len(orders))]
    return {"chosen": chosen, "rejected": chosen[::-1]}


def _prompts(digits: int) -> list[tuple[str, int]]:
    """Every prompt, with the sum that the answer's digits must have; it can be missed by one on both sides."""
    missing = range(digits, 8 * digits + 1)
    return [(f"{a + b + rest:02d}:{a}+{b}=", rest) for a in range(10) for b in range(10) for rest in missing]


def _answers_by_sum(digits: int) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for each in itertools.product(range(10), repeat=digits):
        found.setdefault(sum(each), []).append("".join(map(str, each)))
    return found


def _options(text: str) -> tuple[int, float]:
    """Digits of an answer, and the share of right responses."""
    given = [part.partition("=") for part in text.split(",") if text]
    values = {"digits": "3", "right": str(1 / 3)} | {key: value for key, _, value in given}
    with contextlib.suppress(ValueError):
        digits, share = int(values["digits"]), float(values["right"])
        if len(values) == 2 and 1 <= digits <= 3 and 0 <= share <= 1:
            return digits, share
    raise DataError(f"sums:{text}: the options are {_OPTIONS}")
