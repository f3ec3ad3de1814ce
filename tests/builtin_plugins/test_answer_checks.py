"""Checks of answers: right ones in the forms models write, wrong ones that look right, and texts made to break them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm_builtin_plugins.answer_checks import (
    compiled,
    contains,
    has_number,
    is_exact_match,
    last_number,
    matches_pattern,
)

NUMBERS = {
    "-7": "-7",
    "\u22124": "-4",
    "+5": "5",
    "12.": "12",
    ".5": "1/2",
    "1,234.5": "2469/2",
    "$1,000.00": "1000",
    "\\$18": "18",
    r"total-\$18": "18",
    r"- \boxed{18}": "18",
    "2.5e3": "2500",
    "1e5/2": "50000",
    "3/4": "3/4",
    r"\frac{3}{4}": "3/4",
    r"so \(\boxed{12}\).": "12",
    "50%": "50",
    "\uff11\uff12": "12",
    "\u7b54\u6848\u662f12\u3002": "12",
    "#### 18": "18",
    "####18": "18",
    "3 * 4 = 12": "12",
    "x=12": "12",
    "Answer:12": "12",
    "**Answer:** 12": "12",
    "**The answer is:** 12": "12",
    "**The answer is 12**": "12",
    "the answer is **12**.": "12",
    "Great! 12 apples": "12",
    "- 3": "3",
    "* 3": "3",
    "Result:\n* 3": "3",
    "first 5, then 7": "7",
    "a loss of -$5": "-5",
    "\u2212\\$1,000": "-1000",
    "-\u20ac2.50": "-5/2",
    r"\boxed{10,\!000}": "10000",
    r"$1{,}234{,}567$": "1234567",
    r"12\,345.5": "24691/2",
    "1\u202f000": "1000",
    r"\frac12": "1/2",
    r"-\frac3{40}": "-3/40",
    r"3 \times 4 = 12": "12",
    r"\sqrt{144} = 12": "12",
    r"5\text{ cm}": "5",
    "from 2023 100 of them": "100",
}


@pytest.mark.parametrize("text", NUMBERS)
def test_the_last_number_is_read_in_the_forms_that_models_write(text: str) -> None:
    assert last_number(text) == Fraction(NUMBERS[text])


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "none",
            "nan",
            "inf",
            "\u00bd",
            "2\u00bd",
            "2\u00b2",
            "e5",
            "^2",
            "--5",
            "1.2.3",
            "3..4",
            "1_000",
            "0x10",
        ),
        *("2**3", "9 ** 9", "8 **9** 9", "9**9**9**9", "2 ^ 3", "2^{10}", "4!", "3+4", "3 + 4", "5 - 3", "2 \u00d7 3"),
        *("1 1/2", r"1\frac{1}{2}", "1 000", "12 345 678", r"1\,00", r"1234{,}567"),
        *("-(5)", "= -(5).", r"-\left(5\right)", "-{5}", "-[5]", "\u2212(5)"),
        *(r"-\boxed{5}", r"$-\mathbf{5}$", r"x=-\text{5}", r"-\left|5\right|", r"-\,5", r"-\(5\)"),
        *(r"2 \times 3", r"2\cdot3", r"\sqrt{2}", r"2\pi", r"\pm 5", r"\log 5"),
        *(r"\frac{x}{2}", r"\frac{\pi}{2}", r"\frac{1.5}{2}", r"\frac123", r"\binom{5}{2}"),
        *("(3)(4)", "12 ** x", "12:30", "x2", "1,5", "5/0", "1e101", "1e-101", "1e99999", "1" * 101),
    ],
)
def test_what_would_have_to_be_calculated_or_guessed_is_no_number(text: str) -> None:
    assert last_number(text) is None


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**20))
def test_fractions_and_numbers_of_any_size_are_exact(numerator: int, denominator: int) -> None:
    assert last_number(f"it is {numerator}/{denominator}.") == Fraction(numerator, denominator)
    assert last_number(f"{numerator:,}") == numerator
    assert last_number(f"{numerator}.{denominator}") is not None


def test_numbers_are_compared_by_value_and_a_reference_without_one_is_refused() -> None:
    assert has_number("so it is 0.50", "1/2")
    assert has_number("18", "16 - 3 = 13, 13 + 5 = 18 #### 18")
    assert not has_number("no idea", "1/2")
    with pytest.raises(ValueError, match="no number to compare with in 'none'"):
        has_number("1", "none")


@pytest.mark.parametrize(
    ("answer", "reference", "is_exact", "is_contained"),
    [
        ("Paris.", "paris", True, True),
        (" \u201cParis\u201d\n", "Paris", True, True),
        ("New  York", "new york", True, True),
        ("it is Paris, France", "Paris", False, True),
        ("New York", "York New", False, False),
        ("Parisian", "Paris", False, False),
        ("15", "5", False, False),
        ("3.5", "5", False, False),
        ("it is -5", "5", False, False),
        ("it is \u22125.", "-5", False, True),
        ("3-5", "5", False, True),
        ("gpt4", "4", False, False),
        ("\u5df4\u9ece\u662f\u9996\u90fd", "\u5df4\u9ece", False, True),
        ("Stra\u00dfe", "STRASSE", True, True),
        ("caf\u00e9 \ufb01n", "cafe\u0301 fin", True, True),
        ("!", "!", True, True),
        ("!", "?", False, False),
        ("", "", True, False),
        ("a", "", False, False),
    ],
)
def test_exact_match_and_containment(answer: str, reference: str, is_exact: bool, is_contained: bool) -> None:
    assert is_exact_match(answer, reference) == is_exact
    assert contains(answer, reference) == is_contained


def test_patterns_are_searched_for_anywhere_and_wrong_ones_say_why() -> None:
    assert matches_pattern("the year 1984", r"\b19\d\d\b")
    assert not matches_pattern("the year 84", r"\b19\d\d\b")
    assert matches_pattern("lone surrogates \ud800 are no obstacle", "obstacle$")
    with pytest.raises(ValueError, match=r"pattern '\(': missing \)"):
        compiled("(")
    with pytest.raises(ValueError, match="invalid perl operator"):
        compiled("(?=a)")


SIZE = 10**6
HOSTILE = {
    "letters": "a" * SIZE,
    "digits": "1" * SIZE,
    "spaces": " " * SIZE,
    "stars": "*a" * (SIZE // 2),
    "tower": "9**" * (SIZE // 3) + "9",
    "parentheses": "(" * SIZE,
    "nested": "[{(" * (SIZE // 3),
    "commas": "1," * (SIZE // 2),
    "points": "1.1" * (SIZE // 3),
    "exponents": "1e9" * (SIZE // 3),
    "fractions": r"\frac{" * (SIZE // 6),
    "colons": "1:" * (SIZE // 2),
    "ideographs": "\u7b54" * SIZE,
    "zeros": "\0" * SIZE,
    "marks": "\u0300\u0316" * (SIZE // 2),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_million_hostile_characters_earn_nothing_in_linear_time(name: str) -> None:
    # A check that took quadratic time, or a pattern that backtracked, would hang here.
    text = HOSTILE[name]
    assert last_number(text) is None
    assert not is_exact_match(text, "5")
    assert not contains(text, "5")
    assert not matches_pattern(text, r"(a|a)*b|(1+)+x|(\*?a?)*y")
