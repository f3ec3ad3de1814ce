"""From attrs validators to bounds in JSON Schema (minimum, maximum, minLength, ...)."""

from typing import Any

_COMPARISONS = {"<": "exclusiveMaximum", "<=": "maximum", ">": "exclusiveMinimum", ">=": "minimum"}


def checks_of(validator: Any) -> dict[str, Any]:
    """Keywords that hold a value to ``validator``, as far as JSON Schema can express it.

    Every keyword returned here applies to one type only (numbers, strings, arrays), so that the keywords of an optional
    value let null pass.
    """
    parts = getattr(validator, "_validators", None)  # and_; attrs has no public way to look inside
    if parts is not None:
        return {keyword: bound for part in parts for keyword, bound in checks_of(part).items()}
    if hasattr(validator, "compare_op"):  # gt, ge, lt, le
        return {_COMPARISONS[validator.compare_op]: validator.bound}
    if hasattr(validator, "min_length"):
        return {"minLength": validator.min_length, "minItems": validator.min_length}
    if hasattr(validator, "max_length"):
        return {"maxLength": validator.max_length, "maxItems": validator.max_length}
    if type(validator).__name__ == "_OptionalValidator":  # not_ has a `validator` too, with the opposite meaning
        return checks_of(validator.validator)
    return {}
