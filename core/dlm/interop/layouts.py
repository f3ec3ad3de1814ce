"""Published diffusion models (SDAR, a2d, Dream, LLaDA, ...): how each is recognised, and what its files do not say."""

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from dlm.errors import ModelError

Target = Literal["qwen3", "qwen2", "llama"]


@attrs.frozen(kw_only=True)
class Layout:
    """What a family of checkpoints has in common. Weights are read by the plain class of transformers ``target``."""

    name: str
    """As ``--as`` takes it."""
    model_types: Mapping[str, Target]
    """What ``config.json`` may call it, and which class of transformers has its weights."""
    recognised: bool
    """Whether ``model_type`` alone says that it is this layout."""
    mask_tokens: tuple[str, ...]
    """Texts of the mask token in its tokenizers."""
    adds_mask: bool = False
    """Whether its own programs add the mask token when they run, at the next free id."""
    logit_shift: bool = False
    bias: str | None = None
    """Attention bias by blocks that count from the start of the text; None: all see all."""
    block_keys: tuple[str, ...] = ()
    """Keys of ``config.json`` that may hold the length of a block."""
    ends: tuple[str, ...] = ("<|im_end|>", "<|endoftext|>")
    """Tokens that end a turn or a text, where the tokenizer has them."""
    chats: bool = True
    """Whether its models were trained with the tokenizer's chat template, where there is one."""

    @property
    def summary(self) -> str:
        """What the conversion records, for people."""
        seen = "all positions see all" if self.bias is None else f"{self.bias}, blocks from the start of the text"
        return f"{seen}; {'predicts the next position' if self.logit_shift else 'predicts in place'}"


_A2D: dict[str, Target] = {"a2d-qwen3": "qwen3", "a2d-qwen2": "qwen2", "a2d-llama": "llama"}
_LLAMA_ENDS = ("<|eot_id|>", "<|endoftext|>", "<|end_of_text|>")

_ALL = (
    Layout(
        name="sdar",
        model_types={"sdar": "qwen3"},
        recognised=True,
        mask_tokens=("<|MASK|>", "<MASK>", "<|mask|>"),
        bias="builtin:block_causal",
        block_keys=("block_size", "block_length"),
    ),
    Layout(
        name="a2d-mdlm",
        model_types=_A2D,
        recognised=False,
        mask_tokens=("<|mask|>",),
        adds_mask=True,
        ends=("<|im_end|>", *_LLAMA_ENDS),
    ),
    Layout(
        name="a2d-bd3lm",
        model_types=_A2D,
        recognised=False,
        mask_tokens=("<|mask|>",),
        adds_mask=True,
        bias="builtin:block_causal",
        block_keys=("block_size", "block_length"),
        ends=("<|im_end|>", *_LLAMA_ENDS),
    ),
    Layout(
        name="open-dllm",
        model_types={"qwen2": "qwen2"},
        recognised=False,
        mask_tokens=("<M>",),
        logit_shift=True,
        chats=False,
    ),
    Layout(
        name="fast-dllm",
        model_types={"Fast_dLLM_Qwen": "qwen2"},
        recognised=True,
        mask_tokens=("|<MASK>|",),
        logit_shift=True,
        bias="builtin:block_causal",
        block_keys=("bd_size",),
    ),
    Layout(
        name="dream",
        model_types={"Dream": "qwen2"},
        recognised=True,
        mask_tokens=("<|mask|>",),
        logit_shift=True,
        ends=("<|im_end|>", "<|endoftext|>", "<|dlm_pad|>"),
    ),
    Layout(
        name="llada",
        model_types={"llada": "llama"},
        recognised=True,
        mask_tokens=("<|mdm_mask|>",),
        ends=_LLAMA_ENDS,
    ),
)
LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in _ALL}

_NOT_MAPPED = {
    "sdar_moe": "a mixture of experts",
    "lladamoe": "a mixture of experts",
    "llada_moe": "a mixture of experts",
    "llada2_moe": "a mixture of experts",
    "diffusion_gemma": "no mask model (its noise is random tokens)",
}
"""Diffusion models that are known and cannot be read, and what they are."""


def layout_of(settings: Mapping[str, Any], wanted: str | None, where: str) -> Layout | None:
    """The layout of a published diffusion model; None: an ordinary checkpoint.

    Args:
        settings: ``config.json``, as it is.
        wanted: Name of the layout where the user says it (``--as``).
        where: Beginning of error messages.

    Raises:
        ModelError: A diffusion model that cannot be read here, one of which the files do not say what it is, or another
            one than ``wanted``.
    """
    model_type = str(settings.get("model_type"))
    _refuse_other_kinds(settings, model_type, where)
    if wanted is not None:
        if wanted not in LAYOUTS:
            raise ModelError(f"--as {wanted}: no such layout; known are {', '.join(LAYOUTS)}")
        if model_type not in LAYOUTS[wanted].model_types:
            expected = " or ".join(LAYOUTS[wanted].model_types)
            raise ModelError(f"{where}: model_type is {model_type}; --as {wanted} reads {expected}")
        return LAYOUTS[wanted]
    fitting = [layout for layout in _ALL if model_type in layout.model_types]
    for layout in fitting:
        if layout.recognised:
            return layout
    # A plain qwen2 is what it says; an a2d can only be one of its two forms.
    if len(fitting) > 1:
        names = " or ".join(f"--as {layout.name}" for layout in fitting)
        raise ModelError(
            f"{where}: the files of a {model_type} do not say how it was trained; say it with {names} (the name of "
            "the repository ends in it)"
        )
    return None


def _refuse_other_kinds(settings: Mapping[str, Any], model_type: str, where: str) -> None:
    named = settings.get("architectures")
    architectures = " ".join(map(str, named)) if isinstance(named, list) else ""
    kind = _NOT_MAPPED.get(model_type)
    # LLaDA-MoE calls itself llada, too.
    if kind is None and model_type == "llada" and ("MoE" in architectures or "hidden_size" in settings):
        kind = _NOT_MAPPED["lladamoe"]
    if kind is not None:
        raise ModelError(
            f"{where}: {model_type} ({architectures or 'no architecture named'}) is {kind}; dlm reads dense masked "
            f"diffusion models: {', '.join(LAYOUTS)}"
        )


def how_to_convert(settings: Mapping[str, Any]) -> str | None:
    """What to do about the folder of a published diffusion model that is used as it is; None: it is none.

    Args:
        settings: Its ``config.json``.
    """
    model_type = str(settings.get("model_type"))
    if model_type in _NOT_MAPPED:
        return f"a published diffusion model, but {_NOT_MAPPED[model_type]}; dlm reads {', '.join(LAYOUTS)}"
    # A plain qwen2 is what it says.
    fitting = [layout for layout in _ALL if model_type in layout.model_types and model_type != "qwen2"]
    if not fitting:
        return None
    names = "" if fitting[0].recognised else f", with {' or '.join(f'--as {layout.name}' for layout in fitting)}"
    return f"a published diffusion model: `dlm convert` makes one of dlm of this folder{names}"


def block_length_of(layout: Layout, settings: Mapping[str, Any], wanted: int | None, where: str) -> int | None:
    """Tokens in a block: what the files say, else what the user says; None where nothing is hidden.

    Raises:
        ModelError: Neither says it, they contradict each other, or the layout has no blocks.
    """
    if layout.bias is None:
        if wanted is not None:
            raise ModelError(f"{where}: a {layout.name} model has no blocks; leave --block-length out")
        return None
    said = next((settings[key] for key in layout.block_keys if settings.get(key) is not None), None)
    if said is not None and (isinstance(said, bool) or not isinstance(said, int) or said < 1):
        key = next(key for key in layout.block_keys if settings.get(key) is not None)
        raise ModelError(f"{where}: {key}, the length of a block, is {said!r}; it must be a whole number of at least 1")
    if said is None and wanted is None:
        raise ModelError(
            f"{where}: does not say how long the blocks are that this {layout.name} model was trained with; give "
            "--block-length N (its model card has it: SDAR 4, or N where the name ends in -bN; a2d bd3lm 32)"
        )
    if said is not None and wanted is not None and said != wanted:
        raise ModelError(f"{where}: says blocks of {said}, --block-length says {wanted}; leave the option out")
    return wanted if said is None else said
