"""Which plugins a user switches off or requires (``--no-plugin``, ``DLM_DISABLE_PLUGINS``, ``--strict-plugins``)."""

import os
from collections.abc import Collection, Iterable, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dlm_plugins.discovery import Candidate, PluginRecord
from dlm_plugins.errors import PluginSettingError
from dlm_plugins.suggestions import did_you_mean

DISABLE_VARIABLE = "DLM_DISABLE_PLUGINS"
STRICT_VARIABLE = "DLM_STRICT_PLUGINS"
STRICT_FLAG = "--strict-plugins"
ALL = "all"
"""In place of names: every plugin but the built-ins."""

_SWITCH = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}


def disabled_plugins(disable: Collection[str], candidates: Sequence[Candidate]) -> dict[str, str]:
    """Names of the plugins that are off, each with what turned it off.

    Raises:
        PluginSettingError: a name that no installed plugin has.
    """
    variable = [name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",") if name.strip()]
    asked = {**dict.fromkeys(variable, DISABLE_VARIABLE), **dict.fromkeys(disable, "--no-plugin or plugins.disable")}
    known = {candidate.name for candidate in candidates}
    disabled: dict[str, str] = {}
    for name, origin in asked.items():
        if name == ALL:
            disabled |= {each.name: origin for each in candidates if not each.is_builtin}
        elif name in known:
            disabled[name] = origin
        else:
            subject = None if origin == DISABLE_VARIABLE else name
            raise PluginSettingError(_unknown_name(name, origin, candidates), subject=subject)
    return disabled


def _unknown_name(name: str, origin: str, candidates: Sequence[Candidate]) -> str:
    where = f"{DISABLE_VARIABLE}: " if origin == DISABLE_VARIABLE else ""
    installed = sorted({candidate.name for candidate in candidates})
    same_distribution = [
        each.name for each in candidates if canonicalize_name(each.distribution) == canonicalize_name(name)
    ]
    hint = f"; did you mean {same_distribution[0]!r}?" if same_distribution else did_you_mean(name, [*installed, ALL])
    return f"{where}no plugin {name!r} is installed, so it cannot be disabled{hint} (installed: {', '.join(installed)})"


def is_strict(strict: bool) -> bool:
    """Whether any broken plugin is an error, by request or by environment.

    Raises:
        PluginSettingError: the variable is set to something that is neither on nor off.
    """
    value = os.environ.get(STRICT_VARIABLE, "").strip().lower()
    if value not in _SWITCH:
        raise PluginSettingError(f"{STRICT_VARIABLE} is {value!r}; it must be 1 or 0.")
    return strict or _SWITCH[value]


def check_requirements(require: Iterable[str], records: Sequence[PluginRecord]) -> None:
    """Hold what a run requires against what is installed.

    Raises:
        PluginSettingError: a requirement that cannot be read, is not installed, or whose plugin could not be loaded.
    """
    for text in require:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise PluginSettingError(
                f"cannot read the requirement {text!r}: {error}; write it as for pip, e.g. 'dlm-acme>=0.3'.",
                subject=text,
            ) from None
        provided = [
            record
            for record in records
            if canonicalize_name(record.distribution) == canonicalize_name(requirement.name)
        ]
        if not provided:
            raise PluginSettingError(
                f"this run requires {text!r}, and no plugin of that distribution is installed: pip install {text!r}",
                subject=text,
            )
        if not requirement.specifier.contains(provided[0].version, prereleases=True):
            raise PluginSettingError(
                f"this run requires {text!r}, and {provided[0].distribution} {provided[0].version} is installed: "
                f"pip install {text!r}",
                subject=text,
            )
        for record in provided:
            if record.status != "ok":
                raise PluginSettingError(
                    f"this run requires {text!r}, but plugin {record.name} is {record.status}: {record.error}",
                    subject=text,
                )
