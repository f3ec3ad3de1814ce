"""The model card (README.md) of a published folder: licence and base, data, settings and metrics of its run."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml
from huggingface_hub import EvalResult, ModelCardData, try_to_load_from_cache

from dlm.errors import ModelError
from dlm.interop.trained_folder import TrainedFolder
from dlm.model.checkpoint_sources import one_line
from dlm.model.notices import CARD, NO_LICENCE, NOTICES, OWN_TAG, licence_in, read_card

_UNKNOWN = "unknown: fill in"
_SETTINGS = (
    "training.mode",
    "training.max_steps",
    "training.num_epochs",
    "training.batch_size",
    "training.gradient_accumulation_steps",
    "training.loss_impl",
    "training.noise",
    "training.sft_noise",
    "training.block_attention",
    "dataset.max_length",
    "optim",
    "lora",
    "training.seed",
)
"""Keys of the run file that say how the model was made."""
_METRICS = {"loss": "loss", "masked_ce": "cross-entropy at masked positions", "masked_accuracy": "masked accuracy"}
_REWARDS = {
    "greedy_reward": "reward of greedy answers",
    "greedy_right": "right greedy answers",
    "drawn_reward": "reward of drawn answers",
    "drawn_right": "right drawn answers",
}
"""What is measured where a run learns from rewards: its ``loss`` only ranks checkpoints."""
_NAMES = _METRICS | _REWARDS


@attrs.frozen
class Card:
    """A model card."""

    text: str
    to_fill_in: tuple[str, ...]
    """What nobody but the author knows."""


@attrs.frozen
class _Run:
    """What is known of the run beside the folder; empty where there is none."""

    folder: Path
    """Of the model."""
    config: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    """The last line of the metrics that is an evaluation."""

    def setting(self, key: str) -> Any:
        """The value of a dotted key of the run file; None where it is not there."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    @property
    def base(self) -> str | None:
        """The model that was trained on."""
        base = self.setting("model.name_or_path")
        return None if base is None else str(base)

    @property
    def data_sets(self) -> list[str]:
        """Names of what it was trained on."""
        mixture = self.setting("dataset.mixture")
        parts = mixture if isinstance(mixture, list) and mixture else [self.setting("dataset")]
        return [str(each["name"]) for each in parts if isinstance(each, Mapping) and each.get("name")]

    @property
    def figures(self) -> dict[str, float]:
        """What was measured, by the key of the metrics."""
        names = _REWARDS if "greedy_reward" in self.evaluation else _METRICS
        found = {key: self.evaluation.get(key) for key in names}
        return {key: value for key, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}

    def is_hub_name(self, name: str) -> bool:
        """Whether a name is one on the hub, and no path: here, or in the folders around the run, where it was begun."""
        if name.count("/") != 1 or name.startswith((".", "/", "~", "$")):
            return False
        return not any((folder / name).exists() for folder in (Path(), *self.folder.absolute().parents))

    def hub_data_set(self, name: str) -> str | None:
        """The name of a data set on the hub; None: it is not there."""
        plain = name.partition(":")[0]
        return plain if self.is_hub_name(plain) and "*" not in plain else None


def model_card(model: TrainedFolder, name: str) -> Card:
    """The card of a model, of what stands in its folder and in that of its run.

    Args:
        model: The model.
        name: What the card calls it.

    Raises:
        ModelError: The run's ``config.yaml`` or ``metrics.jsonl``, or the card of the model or its base, cannot be
            read.
    """
    name = " ".join(name.split())  # a folder may have line breaks in its name, a heading none
    run = _run_of(model.path)
    licence = _licence(run)
    base = _base_on_hub(run)
    known = {"license": licence, "the base": run.config or base, "the data it was trained on": run.data_sets}
    data = ModelCardData(
        **(licence or {"license": NO_LICENCE}),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["masked-diffusion", "diffusion-language-model", OWN_TAG, "custom_code"],
        base_model=base,
        datasets=[each for each in map(run.hub_data_set, run.data_sets) if each is not None] or None,
        **_results(run, name),
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {name}", *_body(model, run, licence, base)]
    return Card("\n\n".join(parts) + "\n", tuple(what for what, is_known in known.items() if not is_known))


def _run_of(folder: Path) -> _Run:
    """The run whose ``final`` the folder is."""
    config, metrics = folder.parent / "config.yaml", folder.parent / "metrics.jsonl"
    if folder.name != "final" or not config.is_file():
        return _Run(folder, {}, {})
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        lines = metrics.read_bytes().splitlines() if metrics.is_file() else []
        evaluations = [line for line in map(json.loads, lines) if line.get("split") == "eval"]
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise ModelError(
            f"{folder.parent}: config.yaml and metrics.jsonl, from which the model card is made, cannot be read "
            f"({one_line(error)}); mend them, or copy {folder.name} to a folder of its own"
        ) from error
    return _Run(folder, settings if isinstance(settings, dict) else {}, evaluations[-1] if evaluations else {})


def _licence(run: _Run) -> dict[str, Any]:
    """What the card of the model or of its base says of the licence; ``other`` where its text is beside the weights."""
    cards = [run.folder / CARD]
    if run.base is not None:
        cards.append(Path(run.base).expanduser() / CARD)
        if run.is_hub_name(run.base):
            kept = try_to_load_from_cache(run.base, CARD)
            cards += [Path(kept)] if isinstance(kept, str) else []
    for card in cards:
        if said := licence_in(read_card(card)):
            return said
    return {"license": "other"} if any(run.folder.glob(NOTICES[0])) else {}


def _base_on_hub(run: _Run) -> Any:
    """The name on the hub of what the model was made from: of the run's base, or as the model's own card says."""
    if run.base is not None and run.is_hub_name(run.base):
        return run.base
    return read_card(run.folder / CARD).get("base_model")


def _results(run: _Run, name: str) -> dict[str, Any]:
    """Metrics as the hub shows them beside the text."""
    data = ", ".join(run.data_sets)
    # The hub takes one name for what was measured on, or a word of one's own.
    data_type = run.hub_data_set(data) if len(run.data_sets) == 1 else None
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=data_type or "custom",
            dataset_name=f"{data} (held out)",
            metric_type=key,
            metric_name=_NAMES[key],
            metric_value=value,
        )
        for key, value in run.figures.items()
    ]
    return {"model_name": name, "eval_results": results} if results and data else {}


def _body(model: TrainedFolder, run: _Run, licence: Mapping[str, Any], base: Any) -> Iterator[str]:
    yield (
        "A masked diffusion language model: it writes by filling in masks, several tokens at a time. Made with `dlm`; "
        "it needs transformers 5 and torch, and runs the code of this repository."
    )
    yield _usage(model)
    yield f"## Licence\n\n{_licence_in_words(licence)}."
    yield f"## Base\n\n{_base_in_words(run, base)}"
    yield "## Data\n\n" + ("\n".join(f"- {each}" for each in run.data_sets) or _UNKNOWN)
    facts = {
        "mask token": f"`{model.tokenizer.mask_token}`, id {model.mask_id}",
        "attention": (model.setting("attention_bias_component") or {}).get("name", "full").removeprefix("builtin:"),
        "block length": model.setting("block_length"),
        "logit shift": model.setting("logit_shift"),
    }
    settings = {key: run.setting(key) for key in _SETTINGS}
    rows = [
        f"| {key} | {_shown(value)} |"
        for key, value in {**facts, **settings}.items()
        if value is not None and value is not False
    ]
    yield "## Settings\n\n| | |\n|---|---|\n" + "\n".join(rows)
    if run.figures:
        figures = [f"| {_NAMES[key]} | {value:.4f} |" for key, value in run.figures.items()]
        heading = f"On rows that were held out, after {run.evaluation.get('step')} steps"
        yield f"## Metrics\n\n{heading}:\n\n| metric | value |\n|---|---|\n" + "\n".join(figures)


def _base_in_words(run: _Run, on_hub: Any) -> str:
    if run.config and not run.base:
        return "none: trained from scratch"
    names = [", ".join(map(str, each)) if isinstance(each, list) else str(each) for each in (run.base, on_hub) if each]
    return ", made from ".join(dict.fromkeys(names)) or _UNKNOWN


def _licence_in_words(licence: Mapping[str, Any]) -> str:
    if not licence:
        return _UNKNOWN
    named = licence["license"]
    more = [str(licence[key]) for key in ("license_name", "license_link") if key in licence]
    return (", ".join(map(str, named)) if isinstance(named, list) else str(named)) + (
        f" ({', '.join(more)})" if more else ""
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")
    return str(value).replace("|", "\\|")


def _prompt(model: TrainedFolder) -> str:
    """Code that makes the ids of a prompt as they were in training."""
    tokenizer = model.tokenizer
    if model.setting("prompt_rendering") == "chat_template":
        # Left out, a template takes what it likes.
        knows = "enable_thinking" in str(tokenizer.chat_template)
        thinking = f"    enable_thinking={bool(model.setting('prompt_thinking'))},\n" if knows else ""
        return (
            'turns = [{"role": "user", "content": "..."}]\n'
            "inputs = tokenizer.apply_chat_template(\n"
            '    turns,\n    add_generation_prompt=True,\n    return_tensors="pt",\n    return_dict=True,\n'
            f"{thinking})"
        )
    begins = model.setting("prompt_rendering") == "plain" and tokenizer.bos_token is not None
    by_itself, bare = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (True, False))
    adds_what_is_wanted = by_itself == ([tokenizer.bos_token_id, *bare] if begins else bare)
    if adds_what_is_wanted:
        return 'inputs = tokenizer("...", return_tensors="pt")'
    text = 'tokenizer.bos_token + "..."' if begins else '"..."'
    return f'inputs = tokenizer({text}, add_special_tokens=False, return_tensors="pt")'


def _usage(model: TrainedFolder) -> str:
    return f"""```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

name = "..."  # this repository, or a folder with its files
model = AutoModelForMaskedLM.from_pretrained(name, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)

{_prompt(model)}
ids = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```

`generate` takes the arguments of transformers (`do_sample`, `temperature`, `num_return_sequences`, `streamer`, ...) and
those of the sampler (`steps`, `block_length`, `remasking`, `cfg_scale`, `cache`, `eos`, `seed`, ...)."""
