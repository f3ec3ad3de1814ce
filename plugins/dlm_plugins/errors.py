"""Errors of the contract package: all of them mean that the user or a plugin's author has something to mend."""

from collections.abc import Sequence

import attrs

USER_INPUT = 2
"""Exit status of a command that ends with one of these errors."""


@attrs.frozen
class Problem:
    """One thing that is wrong with a configuration."""

    path: str
    """Dotted path of the key, e.g. ``training.noise.schedule``; empty for the whole document."""
    message: str
    """What is wrong, what is allowed, and what was probably meant."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigurationError(ValueError):
    """Everything that is wrong with a configuration, in one go."""

    exit_code = USER_INPUT

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class ComponentLookupError(LookupError):
    """A name that no loaded plugin provides, or that more than one provides."""

    exit_code = USER_INPUT


class PluginSettingError(ValueError):
    """A request about plugins that cannot be met: an unknown name to disable, a requirement that is not installed."""

    exit_code = USER_INPUT

    def __init__(self, message: str, *, subject: str | None = None) -> None:
        super().__init__(message)
        self.subject = subject
        """The name, requirement or option that was asked for; None where the environment asked."""
