"""Split a decoder into body, decoder layers and LM head; count its parameters."""

from typing import Any

import attrs
from torch import nn

from dlm.errors import ModelError, UserInputError


@attrs.frozen(kw_only=True, eq=False)
class DecoderParts:
    """The two parts of a decoder. They share their parameters with the model they come from."""

    body: nn.Module
    """``body(input_ids=(B, L), attention_mask=..., position_ids=...)`` has ``.last_hidden_state`` (B, L, H)."""
    head: nn.Linear
    """(..., H) to logits (..., V)."""


def split(model: Any) -> DecoderParts:
    """Take a transformers decoder apart.

    Args:
        model: A model with a linear head over the vocabulary.

    Raises:
        ModelError: No head, a head that is not linear, or no body below it.
    """
    name = type(model).__name__
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        found = "no head over the vocabulary" if head is None else f"a head of class {type(head).__name__}"
        raise ModelError(f"{name} has {found}; a decoder with a linear head is needed")
    body = model.base_model
    if body is model or not isinstance(body, nn.Module):
        raise ModelError(f"{name} has no body apart from its head")
    return DecoderParts(body=body, head=head)


def decoder_layers(model: Any, *, wanted_by: str | None = None) -> list[nn.Module]:
    """The layers of a transformers decoder, which are sharded and compiled one by one; none where it does not say.

    Args:
        model: The model; it may hold adapters.
        wanted_by: The key of the run file that cannot do without them.

    Raises:
        UserInputError: The model does not say which of its modules are decoder layers, and they are wanted.
    """
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if wanted_by is not None and not layers:
        raise UserInputError(
            f"{wanted_by}: {type(model).__name__} does not say which of its modules are layers (_no_split_modules); "
            "leave the key out"
        )
    return layers


def num_parameters(model: nn.Module) -> tuple[int, int]:
    """How many numbers the parameters hold, and how many of them are trained; what is shared counts once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
