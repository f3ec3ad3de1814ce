"""Write a configuration back as a run file (``config.yaml``, ``dlm config show``) that means exactly the same."""

from typing import Any

import attrs
import yaml

from dlm.config.run_config import RunConfig
from dlm.config.yaml12 import add_scalar_resolvers
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import unstructure


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would not read as text."""

    yaml_implicit_resolvers = dict(yaml.SafeDumper.yaml_implicit_resolvers)  # noqa: RUF012  # PyYAML reads it so

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


add_scalar_resolvers(_Dumper)


def config_to_mapping(config: RunConfig, registry: Registry) -> dict[str, Any]:
    """Every key with its value in plain mappings, lists and scalars; components with their qualified names."""
    return {field.name: unstructure(registry, getattr(config, field.name)) for field in attrs.fields(RunConfig)}


def dump_config(config: RunConfig, registry: Registry) -> str:
    """The configuration as YAML that ``load_config`` reads back to an equal one."""
    text: str = yaml.dump(
        config_to_mapping(config, registry), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )
    return text
