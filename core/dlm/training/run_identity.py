"""What may not change between a checkpoint and its resumption (config, data, versions), and what only warns."""

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate

from dlm.errors import UserInputError
from dlm_plugins.suggestions import did_you_mean

_FREE = (
    "training.output_dir",
    "training.max_steps",
    "training.num_epochs",
    "training.checkpoint",
    "training.parallel.timeout_seconds",
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

OPTIMIZER = "optimizer_used"
"""The fact that tells the class of the optimizer: 8-bit ones fall back to another where they do not work."""

_GROUPING = ("num_processes", "training.batch_size", "training.gradient_accumulation_steps")
"""Whose product is the number of rows of a step, and which may change the last digits of a number."""

_ONLY_WARNS = ("training.parallel", "num_threads", "device", "plugin_versions", "versions")
"""Facts that may change the last digits of a number, but not what is computed."""


def only_warns(key: str) -> bool:
    """Whether this part of an identity may differ, though it is said."""
    return _is_under(key, _ONLY_WARNS)


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


def compare(
    saved: Mapping[str, object], now: Mapping[str, object], allowed: Collection[str], *, is_sharded: bool = False
) -> list[str]:
    """Warnings about differences that may be; an error about those that may not.

    Args:
        saved: identity in the checkpoint.
        now: identity of the run that wants to resume it.
        allowed: keys that the user lets change, themselves or with everything below them.
        is_sharded: whether it is a sharded checkpoint: any number of processes may share the same rows of a step.

    Raises:
        UserInputError: Something else changed. The message lists every difference.
    """
    differing = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    needless = [key for key in allowed if _is_needless(key, [*saved, *now])]
    described = {key: f"{key}: {saved.get(key)!r} in the checkpoint, {now.get(key)!r} now" for key in differing}
    free = (*_ONLY_WARNS, *allowed, *(_GROUPING if is_sharded else ()))
    refused = [text for key, text in described.items() if not _is_under(key, free)]
    if _has_another_optimizer(saved, now):
        refused = [text for text in refused if text != described[OPTIMIZER]]
        refused.append(
            f"{described[OPTIMIZER]}; what one has learned is of no use to the other, so this cannot be accepted: a "
            "new run from the model (model.name_or_path) can have another"
        )
    may_regroup = any(_is_under(key, allowed) for key in _GROUPING)
    if is_sharded and not may_regroup and (before := rows_of_step(saved)) != (rows := rows_of_step(now)):
        refused += [text for key, text in described.items() if key in _GROUPING]
        refused.append(f"rows of a step: {before} in the checkpoint, {rows} now ({' x '.join(_GROUPING)})")
    if refused:
        listing = "\n  ".join(refused)
        raise UserInputError(
            f"cannot resume, because the run is not the same:\n  {listing}\n"
            "put these back, accept a change by name with `--allow-change KEY`, or choose another training.output_dir"
        )
    notes = [f"--allow-change {key}: not needed, it may change anyway" for key in needless]
    return notes + [f"changed since the checkpoint: {text}" for text in described.values()]


def _has_another_optimizer(saved: Mapping[str, object], now: Mapping[str, object]) -> bool:
    """Whether the class has another name; the module that it comes from may be another one."""
    if OPTIMIZER not in saved or OPTIMIZER not in now:
        return False
    before, after = (str(each[OPTIMIZER]).rpartition(".")[2] for each in (saved, now))
    return before != after


def rows_of_step(identity: Mapping[str, object]) -> int:
    """How many rows all processes take in a step."""
    return math.prod(size for key in _GROUPING if isinstance(size := identity.get(key), int))


def _is_needless(key: str, known: Collection[str]) -> bool:
    """Whether a key that the user allows to change may change anyway; one that means nothing here is refused."""
    meant = [each for each in known if _is_under(each, (key,))]
    if meant:
        return all(map(only_warns, meant))
    if not _is_under(key, _FREE):
        paths = {path for each in known for path in accumulate(each.split("."), "{}.{}".format)}
        raise UserInputError(
            f"--allow-change {key}: there is no such key in this run{did_you_mean(key, sorted(paths))}"
        )
    return True


def _is_under(key: str, prefixes: Collection[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
