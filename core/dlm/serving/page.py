"""The page at ``/``: a prompt, the sampler's settings from their own class, and the text as it is denoised."""

from importlib.resources import files
from typing import Any, Literal, get_args, get_origin

import attrs

from dlm.config.sampling_settings import SamplingSettings
from dlm.sampling.arguments import component_names, written
from dlm.sampling.session import Session
from dlm.sampling.trace import page_of

_LONGEST_VALUE = 40


def page_for(session: Session, name: str, *, needs_key: bool) -> str:
    """The page of a server.

    Args:
        session: the model that is served, with the settings that hold where a request says nothing.
        name: of the model.
        needs_key: whether clients have to send an API key.
    """
    values = written(session.settings)
    fields = [_field(field, values[field.name]) for field in attrs.fields(SamplingSettings)]
    content = {"model": name, "needsKey": needs_key, "fields": fields}
    return page_of(files("dlm.serving") / "page.html", "SERVER", content)


def _field(field: "attrs.Attribute[Any]", value: Any) -> dict[str, Any]:
    choices = _choices(field)
    shown = value["name"].rpartition(":")[2] if isinstance(value, dict) and set(value) == {"name"} else value
    # A seed that is not said is another one for each request.
    is_said = shown not in (None, []) and field.name != "seed" and len(str(shown)) <= _LONGEST_VALUE
    return {
        "name": field.name,
        "help": field.metadata["help"],
        "value": str(shown) if is_said else "",
        "choices": choices,
    }


def _choices(field: "attrs.Attribute[Any]") -> list[str]:
    if names := component_names(field.name):
        return names
    kinds = (field.type, *get_args(field.type))
    return [str(each) for kind in kinds if get_origin(kind) is Literal for each in get_args(kind)]
