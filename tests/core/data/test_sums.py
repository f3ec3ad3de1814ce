"""The built-in data set of digit sums: right answers, a share of right responses, prompts held out, the same always."""

import hashlib
import json
from itertools import pairwise

import pytest

from dlm.data.sources import load_source
from dlm.errors import DataError


def rows(name: str = "sums", split: str = "train") -> list[dict]:
    return [dict(record.values) for record in load_source(name, split=split).open()]


def is_right(prompt: str, answer: str) -> bool:
    target, _, rest = prompt.partition(":")
    first, _, second = rest.rstrip("=").partition("+")
    return int(target) == int(first) + int(second) + sum(map(int, answer))


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_the_answers_are_all_that_complete_the_sum(digits: int) -> None:
    everything = [f"{number:0{digits}d}" for number in range(10**digits)]
    for row in rows(f"sums:digits={digits}", "test")[:40]:
        assert row["answer"] == [each for each in everything if is_right(row["prompt"], each)]
        assert len(row["response"]) == digits


def test_one_response_in_three_is_right_and_the_others_miss_by_one() -> None:
    found = rows()
    right = [is_right(row["prompt"], row["response"]) for row in found]
    assert len(found) == 16 * len({row["prompt"] for row in found}) == 27008
    assert abs(sum(right) / len(right) - 1 / 3) < 0.01  # three standard deviations are 0.0086
    assert right == [row["response"] in row["answer"] for row in found]
    for row in found:
        target, _, rest = row["prompt"].partition(":")
        digits = int(rest[0]) + int(rest[2]) + sum(map(int, row["response"]))
        assert abs(digits - int(target)) <= 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_of_right_responses_is_an_option(share: float) -> None:
    assert {float(row["response"] in row["answer"]) for row in rows(f"sums:digits=2,right={share}")} == {share}


def test_no_prompt_is_in_both_splits_whatever_the_share() -> None:
    train, test = {row["prompt"] for row in rows()}, [row["prompt"] for row in rows(split="test")]
    assert len(test) == len(set(test)) == 512
    assert not train & set(test)
    assert test == [row["prompt"] for row in rows("sums:right=1", "test")]


def test_the_rows_are_the_same_always() -> None:
    text = json.dumps([[row["prompt"], row["response"]] for row in rows()])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "ae40b7136b211547"


def test_neighbours_are_different_prompts() -> None:
    assert all(first["prompt"] != second["prompt"] for first, second in pairwise(rows()))


@pytest.mark.parametrize("options", ["right=2", "right=x", "right=nan", "digits=4", "digits=2,", "colour=blue", "x"])
def test_other_options_are_refused_with_those_there_are(options: str) -> None:
    with pytest.raises(DataError, match=r"the options are digits=1, 2 or 3 \(3\) and right=0 to 1"):
        load_source(f"sums:{options}")


def test_other_splits_are_refused() -> None:
    with pytest.raises(DataError, match="the splits are train, test, pairs, not 'validation'"):
        load_source("sums", split="validation")


@pytest.mark.parametrize("digits", [2, 3])
def test_pairs_are_right_both_and_differ_in_the_order_of_their_digits(digits: int) -> None:
    name = f"sums:digits={digits}"
    found = rows(name, "pairs")
    assert [row["prompt"] for row in found] == [row["prompt"] for row in rows(name)]
    for row in found:
        assert is_right(row["prompt"], row["chosen"])
        assert row["chosen"] == "".join(sorted(row["chosen"])) != row["rejected"] == row["chosen"][::-1]


def test_one_digit_makes_no_pairs() -> None:
    with pytest.raises(DataError, match="one digit has no order"):
        load_source("sums:digits=1", split="pairs")
