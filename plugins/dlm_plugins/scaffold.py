"""``dlm plugins new``: a complete package for a new component, written from a template."""

from importlib import metadata, resources
from pathlib import Path
from string import Template

from packaging.utils import canonicalize_name
from packaging.version import Version

from dlm_plugins import hookspecs, testing
from dlm_plugins.component_stub import component_stub, imports_from_contract
from dlm_plugins.discovery import BUILTIN, COMPONENT_NAME, FRAMEWORK
from dlm_plugins.errors import PluginSettingError
from dlm_plugins.kinds import Kind
from dlm_plugins.plugin_settings import ALL
from dlm_plugins.registry import Registry


def write_project(kind: Kind, name: str, folder: Path) -> tuple[Path, ...]:
    """Write the project of a plugin with one component, and return the files in the order to read them.

    The folder's name becomes the distribution's; without a leading ``dlm-`` it is the plugin's name too.

    Args:
        kind: what the component is to be.
        name: name under which run files select it.
        folder: where to write; new or empty.

    Raises:
        PluginSettingError: a name that is not allowed or a built-in's, or a folder that already holds something.
    """
    if not COMPONENT_NAME.fullmatch(name):
        raise PluginSettingError(f"{name!r} is no name for a component: {_RULE}, e.g. focal_elbo")
    distribution = canonicalize_name(folder.resolve().name)
    plugin = distribution.removeprefix(f"{FRAMEWORK}-").replace("-", "_")
    if not COMPONENT_NAME.fullmatch(plugin) or plugin in (BUILTIN, ALL, FRAMEWORK):
        raise PluginSettingError(
            f"{folder.name!r} cannot name a package: the plugin would be called {plugin!r}; {_RULE}, and none of "
            f"{BUILTIN!r}, {ALL!r}, {FRAMEWORK!r}, e.g. --out dlm-acme"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PluginSettingError(f"{folder} already holds something; nothing was written: choose another --out")
    if any(entry.name == name for entry in Registry.discover(disable=[ALL]).entries(kind.name)):
        raise PluginSettingError(
            f"{name!r} is a built-in {kind.name}, and a bare name stays the built-in's: only {plugin}:{name} would "
            f"select yours; choose another, e.g. {plugin}_{name}"
        )
    package = f"{FRAMEWORK}_{plugin}"
    values = _values(kind, name) | {"distribution": distribution, "plugin": plugin, "package": package}
    values |= _checks(kind, package)
    sources = {
        "pyproject.toml": "pyproject.toml.template",
        f"{package}/__init__.py": "init.py.template",
        "tests/test_contract.py": "test_contract.py.template",
        "README.md": "README.md.template",
    }
    template = resources.files("dlm_plugins") / "template"
    written = {
        path: Template((template / source).read_text("utf-8")).substitute(values) for path, source in sources.items()
    }
    component = template / f"components/{kind.name}.py.template"
    text = component.read_text("utf-8") if component.is_file() else component_stub(kind)
    written[f"{package}/{kind.name}.py"] = Template(text).substitute(values)
    written[f"{package}/py.typed"] = ""
    try:
        for path, text in written.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise PluginSettingError(f"{folder}: cannot be written: {error.strerror}; choose another --out") from error
    return tuple(folder / path for path in written)


_RULE = "lower-case letters, digits and underscores, starting with a letter, and not null, true or false"


def _values(kind: Kind, name: str) -> dict[str, str]:
    words = kind.name.replace("_", " ")
    return {
        "kind": kind.name,
        "name": name,
        "title": f"The {words} {name}",
        "class_name": _class_name(kind, name),
        "decides": kind.decides,
        "hook": kind.hook,
        "protocol": kind.protocol.__name__,
        "hook_imports": imports_from_contract(kind, "hookimpl", kind.protocol.__name__),
        "snippet": _snippet(kind, name),
        "framework_requirement": f"{FRAMEWORK}{_tested_range(Version(metadata.version(FRAMEWORK)))}",
    }


def _tested_range(running: Version) -> str:
    """From the running minor version up to the next that may break: the next minor one before 1.0, then the major."""
    major, minor = running.major, running.minor
    return f">={major}.{minor},<" + (f"0.{minor + 1}" if major == 0 else f"{major + 1}")


def _checks(kind: Kind, package: str) -> dict[str, str]:
    """What the generated test holds the package against, with or without classes written down for the kind."""
    contracts = (each for each in vars(testing).values() if isinstance(each, type))
    contract = next((each for each in contracts if getattr(each, "kind", None) == kind.name), None)
    provides = [
        each for each, cls in vars(hookspecs).items() if each.startswith("Provides") and hasattr(cls, kind.hook)
    ]
    return {
        "contract": contract.__name__ if contract else "Contract",
        "contract_kind": "" if contract else f'    kind = "{kind.name}"\n',
        "provides_import": "".join(f"from dlm_plugins import {each}\n" for each in provides),
        "provides_check": "".join(_PROVIDES_CHECK.format(each, package) for each in provides),
    }


_PROVIDES_CHECK = "hooks: {} = {}  # a type checker holds the hook and the component's methods against the contract\n\n"


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _class_name(kind: Kind, name: str) -> str:
    """Camel case, with the kind at the end, so that it is neither a keyword nor a name of the contract."""
    own, suffix = _camel(name), _camel(kind.name)
    return own if own.endswith(suffix) and own != suffix else f"{own}{suffix}"


def _snippet(kind: Kind, name: str) -> str:
    *sections, key = kind.key.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    if kind.several:
        name = f"[{name}]"
    value = f"{key}: {name}" if sections else f"{key}: {{name: {name}}}"
    return "\n".join([*lines, "  " * len(sections) + value])
