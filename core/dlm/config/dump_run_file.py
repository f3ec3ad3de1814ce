"""Write a configuration back as a run file (``config.yaml``, ``dlm config show``) that means exactly the same."""

from typing import Any

import attrs
import yaml

from dlm.config.optim_section import OptimConfig
from dlm.config.run_config import RunConfig
from dlm.config.yaml12 import add_scalar_resolvers
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import unstructure, unstructure_component


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would not read as text."""

    yaml_implicit_resolvers = dict(yaml.SafeDumper.yaml_implicit_resolvers)  # noqa: RUF012  # PyYAML reads it so

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


add_scalar_resolvers(_Dumper)


def config_to_mapping(config: RunConfig, registry: Registry) -> dict[str, Any]:
    """Every key with its value in plain mappings, lists and scalars; components with their qualified names."""
    plain: dict[str, Any] = {}
    for field in attrs.fields(RunConfig):
        section = getattr(config, field.name)
        plain[field.name] = _optim(section, registry) if field.type is OptimConfig else unstructure(registry, section)
    return plain


def dump_config(config: RunConfig, registry: Registry) -> str:
    """The configuration as YAML that ``load_config`` reads back to an equal one."""
    text: str = yaml.dump(
        config_to_mapping(config, registry), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )
    return text


def _optim(optim: OptimConfig, registry: Registry) -> dict[str, Any]:
    core = {field.name: getattr(optim, field.name) for field in attrs.fields(OptimConfig) if field.name != "optimizer"}
    return {**unstructure_component(registry, "optimizer", optim.optimizer), **core}
