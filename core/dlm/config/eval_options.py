"""What an evaluation measures, how closely: options of ``dlm eval``, section ``evaluation.at_end`` of the run file."""

from typing import Literal, TypeAlias

import attrs

from dlm.config.fields import NOT_NEGATIVE, POSITIVE, POSITIVE_OR_NULL, setting

Method: TypeAlias = Literal["bound", "chain_rule", "all_masked", "autoregressive"]
DEFAULT_DRAWS = 32
DEFAULT_BATCH_TOKENS = 4096
DRAWS_PER_ROUND = 8
"""Masks of each row between two looks at the interval."""


def problem_with_draws(draws: int) -> str | None:
    """Why there cannot be so many masks for a text; None: there can."""
    if draws >= 2 and draws % 2 == 0:
        return None
    return f"draws is {draws}; it must be even and at least 2: the interval comes from pairs"


def _draws(_: object, __: "attrs.Attribute[int]", value: int) -> None:
    if problem := problem_with_draws(value):
        raise ValueError(problem)


def _precise(_: object, __: "attrs.Attribute[float]", value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"precision is {value}; it must lie between 0 and 1, both excluded")


def _whole_rounds(_: object, __: "attrs.Attribute[int]", value: int) -> None:
    if value < DRAWS_PER_ROUND or value % DRAWS_PER_ROUND:
        raise ValueError(f"max_draws is {value}; it must be a multiple of {DRAWS_PER_ROUND}")


@attrs.frozen(kw_only=True)
class EvalOptions:
    """What to measure, and how closely."""

    data: str | None = setting("Texts to score, as dataset.name takes them; null: the rows the run held out.", None)
    questions: str | None = setting("Rows with question, choices, answer: multiple choice by likelihood.", None)
    answers: str | None = setting("Rows with question, answer: answers are written and checked.", None)
    preferences: str | None = setting("Rows with prompt, chosen, rejected: which is likelier.", None)
    method: Method = setting("How choices and preferences are scored.", "bound")
    draws: int = setting("Masks for each choice.", DEFAULT_DRAWS, _draws)
    precision: float = setting("Interval of the draws to reach, over the value.", 0.01, _precise)
    max_draws: int = setting("Most masks for each row of the data.", 64, _whole_rounds)
    seed: int = setting("Of the draws.", 0, NOT_NEGATIVE)
    window: int | None = setting("Tokens of a text scored at once; null: the context.", None, POSITIVE_OR_NULL)
    batch_size: int = setting("Answers that are written at once.", 8, POSITIVE)
    batch_tokens: int = setting("Most positions in one forward of a likelihood.", DEFAULT_BATCH_TOKENS, POSITIVE)
