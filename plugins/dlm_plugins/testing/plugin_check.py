"""Whether the framework would take a plugin: what a test of its components alone does not see."""

from importlib.metadata import EntryPoint
from types import ModuleType

from dlm_plugins.discovery import ENTRY_POINT_GROUP, Candidate
from dlm_plugins.plugin_loading import load_plugin


def check_plugin(module: ModuleType) -> list[str]:
    """Load the module that a package's entry point names, as the framework does when it starts.

    Returns:
        One message for each thing wrong, such as a hook without ``@hookimpl`` or a method with other parameters; empty
        when the framework finds at least one component.
    """
    name = module.__name__.rpartition(".")[2]
    record = load_plugin(Candidate(EntryPoint(name=name, value=module.__name__, group=ENTRY_POINT_GROUP)))
    if record.status != "ok":
        return [f"{module.__name__} is {record.status}: {record.error}"]
    if not record.entries:
        return [f"{module.__name__} loads, but its hooks offer no component"]
    return []
