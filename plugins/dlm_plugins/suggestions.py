""" "Did you mean ...?": what was probably meant by a word that is not known."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``word`` most probably stands for; None when nothing is near.

    Slips of the finger (a letter too many, too few, wrong or swapped) decide first, so that short names are found too;
    then likeness, so that ``epochs`` finds ``num_epochs``.
    """
    names = list(dict.fromkeys(candidates))
    typed = _plain(word)
    allowed = max(1, len(typed) // 4)
    ranked = sorted((_num_slips(typed, _plain(name)), -_likeness(typed, name), name) for name in names)
    if ranked and ranked[0][0] <= allowed:
        return ranked[0][2]
    matches = get_close_matches(typed, names, n=1, cutoff=0.7)
    return matches[0] if matches else None


def did_you_mean(word: object, candidates: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing: to be appended to a message."""
    match = closest(str(word), candidates)
    return f"; did you mean {match!r}?" if match is not None else ""


def _plain(word: str) -> str:
    # Nobody misspells at greater length; the bound keeps the quadratic comparison cheap on hostile input.
    return word[:64].lower().replace("-", "_")


def _likeness(word: str, name: str) -> float:
    return SequenceMatcher(None, word, _plain(name)).ratio()


def _num_slips(left: str, right: str) -> int:
    """Edit distance with transpositions of neighbours (optimal string alignment)."""
    before: list[int] = []
    previous = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        current = [i]
        for j, b in enumerate(right, start=1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, previous = previous, current
    return previous[-1]
