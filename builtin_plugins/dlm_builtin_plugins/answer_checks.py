"""Whether an answer is right: exact match after normalisation, contains, last number as a fraction, safe patterns.

Metrics and rewards of the same names call these functions. Answers come from a model, so that any text must be taken:
every check is linear in the length of the answer, evaluates nothing, and depends on its arguments alone.
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import Any

MOST_DIGITS = 100
"""Digits of a number, and size of its exponent, up to which it is read."""

_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1780-\u17ff"
"""Scripts that put no space between words: Kana, Han, Thai, Lao, Khmer."""
_WORD = re.compile(rf"[{_SPACELESS}]|(?:(?<![\w.)])-)?\d+(?:[.,]\d+)*|(?:(?![{_SPACELESS}])\w)+|[^\w\s]")
_PIECE = re.compile(r"\s+|\S{1,200}")
_OUTER = " .,;:!?\u2026\u3002\uff0c\uff01\uff1f\"'`\u2018\u2019\u201c\u201d\u300c\u300d*"


def normalised(text: str) -> str:
    """Compatible forms of characters made one (NFKC), case folded, white space collapsed, outer punctuation removed."""
    folded = _compatible(text).casefold()
    return " ".join(folded.split()).strip(_OUTER)


def _compatible(text: str) -> str:
    """NFKC, and one minus sign. Word by word: a call's time is quadratic in the number of marks on a letter."""
    return "".join(unicodedata.normalize("NFKC", piece) for piece in _PIECE.findall(text.replace("\u2212", "-")))


def is_exact_match(answer: str, reference: str) -> bool:
    """Whether both are the same once normalised. A reference of punctuation alone is compared as it stands."""
    wanted = normalised(reference)
    return normalised(answer) == wanted if wanted else answer.strip() == reference.strip()


def contains(answer: str, reference: str) -> bool:
    """Whether the words of the reference stand in the answer, one after the other and as whole words.

    A number is one word, with its sign: ``5`` is contained in none of ``15``, ``3.5`` and ``-5``. An empty
    reference is contained nowhere.
    """
    wanted = _words(reference)
    return bool(wanted) and f" {wanted} " in f" {_words(answer)} "


def _words(text: str) -> str:
    return " ".join(_WORD.findall(_compatible(text).casefold()))


def has_number(answer: str, reference: str) -> bool:
    """Whether the number an answer ends with equals that of the reference, as fractions: 0.5, 1/2 and 50e-2 are one.

    Raises:
        ValueError: the reference ends with no number.
    """
    wanted = last_number(reference)
    if wanted is None:
        raise ValueError(f"no number to compare with in {reference[:60]!r}")
    return last_number(answer) == wanted


_DIGIT = re.compile(r"[\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u2189\u2460-\u249b]")
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)?(?:\.(\d+))?(?:[eE]([+-]?\d{1,4}))?(?:/(\d+))?")
_FRACTION = re.compile(r"(\d?)\\[dt]?frac(?:\{(-?\d{1,100})\}|(\d))(?:\{(\d{1,100})\}|(\d))(?!\d)")
_SEPARATOR = re.compile(r"(?<=\d)(?:,?\\[,!;: ]|\{,\}|[\u00a0\u2009\u202f])(?=\d)")
"""Between groups of digits: LaTeX's thin spaces and its comma, and spaces that no line is broken at."""
_SIGNED_PRICE = re.compile(r"(?<![\w.)])-(\\?[$\u20ac\u00a3\u00a5])")
_FUNCTION = re.compile(
    r"\\(?:times|cdot|div|ast|pm|mp|sqrt|[cdt]?frac|[dt]?binom|pi|log|ln|exp|sin|cos|tan|sum|prod|[bp]?mod)(?![a-zA-Z])"
    r"|-(?=\\(?!\$)|[(\[{])"
)
_TWO_WORDS = re.compile(r"[+-]?(?:\d{1,3} \d{3}|\d+ \d+/\d+)")
"""What may be a single number: groups of digits, or a mixed one."""
_BOLD = re.compile(r"(?<![\w*)])(?<!\d )\*{1,3}([^*\s]{1,200})\*{1,3}(?![\w*(])")
_SPACES = re.compile(
    rf"\\[a-zA-Z]+|\\.|[{{}}\[\]()$\u20ac\u00a3\u00a5=~\u2248\"'`|]|(?<!\d):|:(?!\d)|[{_SPACELESS}\u3000-\u303f]"
)
_OPERATORS = ("*", "/", "^", "+", "\u00d7", "\u00f7", "\u00b7")
_PLAIN = str.maketrans(
    {"\u2212": "-", "\uff0d": "-", "\uff0e": ".", "\uff0c": ",", "\uff05": "%", "\uff0f": "/", "\uff1a": ":"}
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
)


def last_number(text: str) -> Fraction | None:
    r"""The number that a text ends with, exactly; None where its last word with a digit is no plain number.

    Read are ``-7``, ``1,234.5``, ``2.5e3``, ``3/4``, ``\frac{3}{4}``, ``\boxed{12}``, ``-$5``, ``50%`` (as 50) and
    ``**12**``. Nothing is calculated: ``2**3``, ``2 \times 3``, ``-(3)``, ``-\boxed{3}``, ``\sqrt{2}``, ``4!`` and
    ``12:30`` are none, nor is what may be more than it seems (``1 1/2``, ``1 000``), or has more than ``MOST_DIGITS``
    digits or an exponent beyond them.
    """
    plain = _SIGNED_PRICE.sub(r"\1-", _SEPARATOR.sub(",", text.translate(_PLAIN)))
    plain = _FUNCTION.sub(" ^ ", _FRACTION.sub(_as_quotient, plain)).replace(")(", "*").replace("}{", "*")
    words = _SPACES.sub(" ", _BOLD.sub(r" \1 ", plain)).split()
    index = next((index for index in range(len(words) - 1, -1, -1) if _DIGIT.search(words[index])), None)
    if index is None or _is_operand(words, index):
        return None
    word = words[index].rstrip(".,;:?*%#>")
    return _number(word.lstrip("#*") if index == 0 or not _DIGIT.search(words[index - 1]) else word)


def _as_quotient(found: "re.Match[str]") -> str:
    """``3/4``, which a digit in front is kept apart from."""
    before, *parts = (part or "" for part in found.groups())
    return (before and f"{before} ") + "{}{}/{}{}".format(*parts)


def _is_operand(words: list[str], index: int) -> bool:
    """Whether the word is part of a calculation, or of a longer number: by what stands before and after it."""
    if _TWO_WORDS.fullmatch(" ".join(words[max(index - 1, 0) : index + 1]).rstrip(".,;:?*%#>")):
        return True
    before, after = words[index - 1 : index], words[index + 1 : index + 2]
    left = words[index - 2] if index > 1 else ""
    has_left = len(left) == 1 or _DIGIT.search(left) is not None
    # Alone, asterisks may be markup (a list, the end of a bold passage), and a dash may begin an item.
    stands_alone = bool(before) and set(before[0]) <= {"*", "-"}
    is_right_side = bool(before) and (has_left if stands_alone else before[0].endswith(_OPERATORS))
    return is_right_side or (bool(after) and after[0].startswith(_OPERATORS))


def _number(word: str) -> Fraction | None:
    found = _NUMBER.fullmatch(word) if len(word) <= 4 * MOST_DIGITS else None
    if found is None:
        return None
    sign, whole, decimals, exponent, divisor = (part or "" for part in found.groups())
    digits = whole.replace(",", "") + decimals
    if not digits or len(digits) > MOST_DIGITS or len(divisor) > MOST_DIGITS or int(divisor or 1) == 0:
        return None
    if abs(int(exponent or 0)) > MOST_DIGITS:
        return None
    scale = Fraction(10) ** (int(exponent or 0) - len(decimals))
    return (-1 if sign == "-" else 1) * int(digits) * scale / int(divisor or 1)


def matches_pattern(answer: str, pattern: str) -> bool:
    """Whether a regular expression matches anywhere in the answer.

    The expressions are RE2's: as in Python, without back-references and look-around, whose time can explode.

    Raises:
        ValueError: no such expression, with the reason.
    """
    return compiled(pattern).search(answer.encode("utf-8", "replace").decode("utf-8")) is not None


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Any:
    """The expression, ready to search with.

    Raises:
        ValueError: it cannot be read, with the reason.
    """
    import re2  # not before it is needed: most runs check no pattern

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"pattern {pattern[:60]!r}: {reason}") from error
