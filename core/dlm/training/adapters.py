"""LoRA (Hu et al. 2021, arXiv:2106.09685): which layers get adapters, put in by peft; they alone are trained."""

import importlib
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dlm.config import LoraConfig
from dlm.errors import UserInputError
from dlm.model.adapter_files import (
    ADAPTER_WEIGHTS,
    BASE_FINGERPRINT,
    PREFIX,
    fingerprint_of,
    write_adapter_config,
)
from dlm.model.body_and_head import split
from dlm.training.optimisation import without_bitsandbytes
from dlm_plugins.suggestions import did_you_mean

_NAME = "default"


@attrs.frozen
class AdapterWeights:
    """The adapters alone. Their base stays where it is; it must not change."""

    model: PreTrainedModel
    settings: Any
    """peft's configuration."""
    base_fingerprint: str

    @property
    def file(self) -> str:
        """See :class:`dlm.training.weights.Weights`."""
        return ADAPTER_WEIGHTS

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`dlm.training.weights.Weights`."""
        named = self.model.named_parameters()
        return {PREFIX + name.replace(f".{_NAME}.", "."): each for name, each in named if each.requires_grad}

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`dlm.training.weights.Weights`."""
        return dict(tensors)

    def write_settings(self, folder: Path) -> None:
        """See :class:`dlm.training.weights.Weights`."""
        write_adapter_config(folder, {**self.settings.to_dict(), "inference_mode": True})
        self.model.config.save_pretrained(folder)

    def facts(self) -> dict[str, object]:
        """See :class:`dlm.training.weights.Weights`."""
        return {"base_weights": self.base_fingerprint}

    def usage(self, folder: Path) -> list[str]:
        """See :class:`dlm.training.weights.Weights`."""
        name, merged = shlex.quote(str(folder)), shlex.quote(str(folder.with_name("merged")))
        return [f"dlm merge {name} --out {merged}", f'dlm generate --model {merged} --prompt "..."']


def add_adapters(
    model: PreTrainedModel, lora: LoraConfig, *, base: str, seed: int, facts: Mapping[str, object] | None = None
) -> AdapterWeights:
    """Put adapters into ``model``, in place, and freeze everything else.

    The adapters start without any effect. Their random half is drawn from ``seed``.

    Args:
        model: a decoder.
        lora: rank, scale, dropout and targets.
        base: name or folder of the model, to be written beside the adapters.
        seed: of the run.
        facts: :meth:`AdapterWeights.facts` of the same adapters, for a model without contents.

    Raises:
        UserInputError: peft is not installed, or a target is no linear layer of the body.
    """
    fingerprint = fingerprint_of(model) if facts is None else str(facts.get("base_weights"))
    with without_bitsandbytes(), torch.random.fork_rng(devices=[]):
        try:
            peft: Any = importlib.import_module("peft")  # takes half a second, and is not always there
        except ImportError:
            message = "lora: adapters need the package peft; install it with: pip install 'dlm[lora]'"
            raise UserInputError(message) from None
        settings = peft.LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=_targets(model, lora),
            base_model_name_or_path=base,
        )
        torch.manual_seed(seed)
        with _placeholders(model):
            peft.inject_adapter_in_model(settings, model, adapter_name=_NAME)
    setattr(model.config, BASE_FINGERPRINT, fingerprint)
    return AdapterWeights(model, settings, fingerprint)


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """While the model is its base alone."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # takes half a second, and is not always there

    layers = [each for each in module.modules() if isinstance(each, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True  # its own method also switches gradients off
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def _placeholders(model: nn.Module) -> Iterator[None]:
    """Let parameters on the meta device seem to be on the CPU: adapters are made, and drawn, where their base is."""
    places = [
        (module, key, parameter)
        for module in model.modules()
        for key, parameter in module._parameters.items()
        if parameter is not None and parameter.is_meta
    ]
    for module, key, parameter in places:
        zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)  # of no size to speak of
        module._parameters[key] = nn.Parameter(zeros, requires_grad=parameter.requires_grad)
    yield
    for module, key, parameter in places:
        parameter.requires_grad_(False)
        module._parameters[key] = parameter


def _targets(model: PreTrainedModel, lora: LoraConfig) -> list[str]:
    """Last parts of the names of the linear layers that get an adapter."""
    body = split(model).body
    linear = {name.rpartition(".")[2] for name, module in body.named_modules() if isinstance(module, nn.Linear)}
    for target in lora.targets or ():
        if target not in linear:
            hint = did_you_mean(target, sorted(linear)) or ";"
            raise UserInputError(
                f"lora.targets: the body of this model has no linear layer {target!r}{hint} it has "
                f"{', '.join(sorted(linear))}"
            )
    return sorted(set(lora.targets or linear))
