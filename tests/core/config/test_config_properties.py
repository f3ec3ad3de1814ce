"""Properties of the run file over generated misspellings, malformed files and valid configurations."""

import json
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlm.config import RunConfig, RunFileError, config_to_mapping, dump_config, json_schema, load_config, load_mapping
from dlm.config.load_run_file import run_converter
from dlm.config.yaml12 import parse_yaml
from dlm_plugins.errors import ConfigurationError
from dlm_plugins.registry import Registry

QUICK = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def slips(word: str) -> Iterator[str]:
    """Every swap and omission, and some wrong and additional letters."""
    letters = random.Random(word).choices(string.ascii_lowercase + "_", k=len(word) + 1)
    for i, letter in enumerate(letters):
        yield word[:i] + letter + word[i:]
        if i < len(word):
            yield word[:i] + word[i + 1 :]
            yield word[:i] + letter + word[i + 1 :]
        if i + 1 < len(word):
            yield word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def keys_of(mapping: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in mapping.items():
        yield (*path, key)
        # A component's name is not a key that can be misspelt on its own: without it there is no component.
        if isinstance(value, dict) and (*path, key) != ("model", "config"):
            yield from keys_of(value, (*path, key))


def complete(registry: Registry) -> dict[str, Any]:
    minimal = {
        "model": {"name_or_path": "x"},
        "training": {"output_dir": "runs/x", "max_steps": 3},
        "dataset": {"name": "python-docs"},
        "lora": {},
    }
    return config_to_mapping(load_mapping(minimal).config, registry)


def without_rest(full: dict[str, Any], parents: list[str], key: str, slip: str) -> dict[str, Any]:
    """The full file with nothing but the misspelt key in its mapping, so that every other key is a rival."""
    value: dict[str, Any] = json.loads(json.dumps(full))
    holder = value
    for parent in parents:
        holder = holder[parent]
    kept = {"name": holder["name"]} if "name" in holder and key != "name" else {}
    content = holder[key]
    holder.clear()
    holder |= {**kept, slip: content}
    return value


def test_nineteen_of_twenty_misspelt_keys_are_recognised(registry: Registry) -> None:
    converter, full = run_converter(registry), complete(registry)
    known = {path[-1] for path in keys_of(full)}
    cases = [
        (list(parents), key, slip)
        for *parents, key in keys_of(full)
        if key != "name" or parents == ["dataset"]
        for slip in dict.fromkeys(slips(key))
        if slip and slip not in known
    ]
    chosen = random.Random(0).sample(cases, 500)
    missed = []
    for parents, key, slip in chosen:
        with pytest.raises(ConfigurationError) as raised:
            converter.structure(without_rest(full, parents, key, slip), RunConfig)
        path = ".".join((*parents, slip))
        message = next(problem.message for problem in raised.value.problems if problem.path == path)
        if f"did you mean {key!r}" not in message:
            missed.append((path, message))
    assert len(missed) <= 0.05 * len(chosen), missed


def refusal_of(load: Callable[[], object]) -> tuple[str, ...]:
    """The lines of the refusal; none when the configuration is accepted."""
    try:
        load()
    except RunFileError as error:
        return error.lines
    return ()


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["name", "full"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(parent=QUICK, max_examples=100)
def test_malformed_configurations_end_in_problems_and_nothing_else(data: st.DataObject, registry: Registry) -> None:
    value: dict[str, Any] = json.loads(json.dumps(complete(registry)))
    for _ in range(data.draw(st.integers(1, 4))):
        *parents, key = data.draw(st.sampled_from(list(keys_of(value))))
        holder = value
        for parent in parents:
            holder = holder[parent]
        change = data.draw(st.sampled_from(["replace", "remove", "add", "rename"]))
        if change == "replace":
            holder[key] = data.draw(junk)
        elif change == "add":
            holder[data.draw(st.text(max_size=8))] = data.draw(junk)
        else:
            content = holder.pop(key)
            if change == "rename":
                holder[data.draw(st.sampled_from([key[1:], key + "s", key.upper(), "", "\n"]))] = content
    for line in refusal_of(lambda: load_mapping(value)):
        assert len(line.splitlines()) == 1
        line.encode("utf-8")


@given(data=st.data())
@settings(parent=QUICK, max_examples=200)
def test_damaged_files_end_in_problems_and_nothing_else(data: st.DataObject, tmp_path: Path, minimal_text: str) -> None:
    text = (
        minimal_text
        + "optim: {name: adamw, lr: 3e-4, betas: [0.9, 0.95]}\nevaluation:\n  sample_prompts:\n  - 'a: b'\n"
    )
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(text)))
        piece = data.draw(
            st.sampled_from(
                ["", ":", "\n", "\t", "- ", "{", "]", "'", '"', "&a ", "*a", "!!int ", "%", "|", "?", "\ufffe"]
            )
        )
        text = text[:i] + piece + text[i + data.draw(st.integers(0, 3)) :]
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    for line in refusal_of(lambda: load_config(path)):
        assert line.startswith(str(path))
        assert len(line.splitlines()) == 1


@given(st.binary(max_size=200))
@QUICK
def test_noise_ends_in_problems_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(RunFileError):
        load_config(path)


# Half a character is no text: a run file that holds one is refused.
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda text: "\x85" not in text)
plain_values: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(1, 30),
    float: st.floats(0.001, 0.9),
    str: names | st.sampled_from(["no", "3e-4", "1_0", "0o7", "~", "null", "1:30", "=", "<<", "- a", "#", " x", "'"]),
    type(None): st.none(),
}


def values_of(expected: Any) -> st.SearchStrategy[Any] | None:
    if get_origin(expected) is Literal:
        return st.sampled_from(get_args(expected))
    if expected in plain_values:
        return plain_values[expected]
    members = [values_of(member) for member in get_args(expected) if member is not ...]
    if not members or None in members or len(members) > 2:
        return None
    strategies = [member for member in members if member is not None]
    return st.lists(strategies[0], max_size=3) if len(members) == 1 else st.one_of(strategies)


RULED = [
    "name",
    "mixture",
    "name_or_path",
    "num_epochs",
    "max_steps",
    "max_length",
    "config",
    "streaming",
    "block_length",
    "isolate_documents",
    "split",
    "train_on",
    "mixed_precision",
    "trackers",
    "mode",
]
"""Keys whose values depend on others, or that have a range of their own."""


def modes(training: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections that a mode needs."""
    rewards = {
        "training": {**training, "mode": "rl", "loss_impl": "policy_clip"},
        "dataset": {"name": "b", "pack": False},
        "rl": {"rewards": ["exact", {"name": "ends", "weight": 0.5}], "group_size": 2},
        "sampling": {"gen_length": 4, "temperature": 1.0, "block_length": None},
    }
    return [
        {"training": {**training, "mode": "pretrain"}},
        {"training": {**training, "mode": "sft"}},
        {
            "training": {**training, "mode": "preference", "loss_impl": "dpo"},
            "dataset": {"name": "b"},
            "preference": {"reference": "y"},
        },
        rewards,
    ]


@st.composite
def run_files(draw: st.DrawFn) -> dict[str, Any]:
    """Valid run files: some keys of each section with values of their types."""
    value: dict[str, Any] = {
        "model": {"name_or_path": "x"},
        "training": {"output_dir": "a", "max_steps": 3},
        "dataset": {"name": "b"},
        "evaluation": {},
        "sampling": {"block_length": None},
        "logging": {},
    }
    for section in attrs.fields(RunConfig):
        for field in attrs.fields(section.type) if section.name in value else ():  # type: ignore[arg-type]
            strategy = values_of(field.type)
            if strategy is not None and field.name not in RULED and draw(st.booleans()):
                value[section.name][field.name] = draw(strategy)
    value["logging"]["trackers"] = draw(st.sampled_from([[], ["all"]]))
    if draw(st.booleans()):
        value["lora"] = {"r": 3, "targets": draw(st.none() | st.lists(names, min_size=1, max_size=2))}
    value["training"]["noise"] = {"schedule": draw(st.sampled_from(["cosine", {"name": "power", "exponent": 1.5}]))}
    value |= draw(st.sampled_from(modes(value["training"])))
    value["evaluation"]["metrics"] = draw(st.sampled_from([[], ["elbo", {"name": "elbo", "per": "byte"}]]))
    plan = ["block", {"name": "per_layer", "plan": ["full", "alternating"]}]
    bias = draw(st.sampled_from(["block_causal", {"name": "per_layer", "plan": plan}]))
    value["training"]["block_attention"] = {"enabled": True, "block_length": 4, "bias": bias}
    value["optim"] = {"name": "lion8bit", "lr": draw(st.floats(1e-12, 1e3))}
    return value


@given(value=run_files())
@settings(parent=QUICK, max_examples=40)
def test_what_is_shown_is_valid_input_that_means_the_same(value: dict[str, Any], tmp_path: Path) -> None:
    loaded = load_mapping(value)
    text = dump_config(loaded.config, loaded.registry)
    path = tmp_path / "shown.yaml"
    path.write_text(text, encoding="utf-8")
    again = load_config(path)
    assert again.config == loaded.config
    assert dump_config(again.config, again.registry) == text
    assert again.notes == loaded.notes


@given(
    st.recursive(
        st.sampled_from([None, True, 1, -0.5, 1e-30, 1e300, "x"]) | plain_values[str],
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=10,
    )
)
@settings(parent=QUICK, max_examples=200)
def test_any_plain_value_survives_dumping_and_parsing(value: Any) -> None:
    from dlm.config.dump_run_file import _Dumper

    assert parse_yaml(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)).value == value


def test_the_schema_is_a_schema_and_accepts_what_is_shown(registry: Registry) -> None:
    schema = json_schema(registry)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(complete(registry))) == []


@pytest.mark.parametrize(
    ("path", "value", "valid"),
    [
        (("training", "seed"), 3, True),
        (("training", "seed"), -1, False),
        (("training", "seed"), 2**32, False),
        (("training", "seed"), "3", False),
        (("training", "seeed"), 3, False),
        (("training", "max_steps"), None, True),
        (("training", "max_steps"), 0, False),
        (("training", "mode"), "sfft", False),
        (("training", "output_dir"), "", False),
        (("training", "loss_impl"), "soft_ce", True),
        (("training", "loss_impl"), "builtin:soft_ce", True),
        (("training", "loss_impl"), "softce", False),
        (("training", "loss_impl"), {"name": "soft_ce", "label_smoothing": 0.2}, True),
        (("training", "loss_impl"), {"name": "soft_ce", "label_smoothing": 2}, False),
        (("training", "loss_impl"), {"name": "elbo", "label_smoothing": 0.2}, False),
        (("training", "loss_impl"), {"label_smoothing": 0.2}, False),
        (("training", "noise", "schedule"), "cosine", True),
        (("training", "noise", "t_per"), "word", False),
        (("training", "sft_noise", "reweight_cap"), 0.5, False),
        (("optim",), "adamw", True),
        (("optim",), {"lr": 1e-3, "lr_scheduler": "linear"}, True),
        (("optim",), {"name": "adamw", "betas": [0.9]}, False),
        (("optim",), {"name": "adamw", "lr_scheduler": "step"}, False),
        (("model", "tokenizer"), {"train": {"vocab_size": 300}}, True),
        (("model", "tokenizer"), {"train": {"size": 300}}, False),
        (("lora",), {"r": 4}, True),
        (("lora",), {"r": 0}, False),
        (("evaluation", "sample_prompts"), ["a", 3], False),
        (("training", "block_attention", "bias"), {"name": "per_layer", "plan": ["full", {"name": "per_layer"}]}, True),
        (("training", "block_attention", "bias"), {"name": "per_layer", "plan": ["full", "fulll"]}, False),
        (("training",), {}, False),
        (("dataset", "mixture"), [{"name": "a", "weight": 2}], True),
        (("dataset", "mixture"), [{"name": "a", "weight": 0}], False),
    ],
)
def test_the_schema_and_the_loader_agree(registry: Registry, path: tuple[str, ...], value: Any, valid: bool) -> None:
    config = complete(registry)
    holder = config
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    assert jsonschema.Draft202012Validator(json_schema(registry)).is_valid(config) is valid
    try:
        run_converter(registry).structure(config, RunConfig)
    except ConfigurationError:
        assert not valid
    else:
        assert valid


def test_every_key_is_described_in_the_schema(registry: Registry) -> None:
    def undescribed(schema: dict[str, Any], path: str) -> Iterator[str]:
        for key, inner in schema.get("properties", {}).items():
            if "description" not in inner and key != "name":
                yield f"{path}.{key}"
            yield from undescribed(inner, f"{path}.{key}")
        for member in schema.get("anyOf", []):
            yield from undescribed(member, path)

    assert list(undescribed(json_schema(registry), "")) == []
