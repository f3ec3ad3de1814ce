"""What makes a run the run it is: what may not change between a checkpoint and its resumption."""

from collections.abc import Collection, Iterator, Mapping

from dlm.errors import UserInputError

_FREE = (
    "training.output_dir",
    "training.max_steps",
    "training.num_epochs",
    "training.checkpoint",
    "dataset.num_workers",
    "evaluation",
    "sampling",
    "logging",
    "plugins",
)
"""Sections of the run file that do not bear on the weights. The number of steps is among the facts where it does: most
learning-rate schedules depend on it."""

CLOCK = "template_clock"
"""The fact that tells what time the chat template printed, when the run was first started."""

ONLY_WARNS = ("num_threads", "device", "plugin_versions", "versions")
"""Facts that may change the last digits of a number, but not what is computed."""


def flatten(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and their values, depth first."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def identity_of(config: Mapping[str, object], facts: Mapping[str, object]) -> dict[str, object]:
    """Everything that must be the same: the run file without its free sections, and facts about the run."""
    kept = {key: value for key, value in flatten(config) if not _is_under(key, _FREE)}
    return {**kept, **dict(flatten(facts))}


def compare(saved: Mapping[str, object], now: Mapping[str, object], allowed: Collection[str]) -> list[str]:
    """Warnings about differences that may be; an error about those that may not.

    Args:
        saved: identity in the checkpoint.
        now: identity of the run that wants to resume it.
        allowed: keys that the user lets change, themselves or with everything below them.

    Raises:
        UserInputError: Something else changed. The message lists every difference.
    """
    differing = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    unknown = [key for key in allowed if not any(_is_under(known, (key,)) for known in {**saved, **now})]
    if unknown:
        raise UserInputError(f"--allow-change {unknown[0]}: there is no such key in this run")
    described = {key: f"{key}: {saved.get(key)!r} in the checkpoint, {now.get(key)!r} now" for key in differing}
    refused = [text for key, text in described.items() if not _is_under(key, (*ONLY_WARNS, *allowed))]
    if refused:
        listing = "\n  ".join(refused)
        raise UserInputError(
            f"cannot resume, because the run is not the same:\n  {listing}\n"
            "put these back, accept a change by name with `--allow-change KEY`, or choose another training.output_dir"
        )
    return [f"changed since the checkpoint: {text}" for text in described.values()]


def _is_under(key: str, prefixes: Collection[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
