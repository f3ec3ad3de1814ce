"""The model as the sampler calls it: body, head, attention masks and logit shift; forwards are counted."""

import inspect
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from dlm.model.attention import Visibility, attending_with, for_inference
from dlm.model.body_and_head import split
from dlm.model.layer_masks import mask_arguments
from dlm.model.masks import attention_mask_for
from dlm.sampling.kv_store import KeyValueStore
from dlm_plugins import AttentionBias, SequenceLayout, bias_of_layer
from dlm_plugins.attention_bias import LayeredAttentionBias

# B rows, Q queries, K keys, T positions of the canvas, H hidden.


@attrs.define(kw_only=True, eq=False)
class Decoder:
    """Runs the body under an attention bias."""

    body: nn.Module
    head: nn.Linear
    bias: AttentionBias
    num_layers: int
    implementation: str
    dtype: torch.dtype
    shift: int
    """1 where position i is predicted from the hidden state of position i - 1, as the AR parent did; else 0."""
    cache_name: str
    """The argument of the body that takes its cache."""
    num_forwards: int = 0

    @classmethod
    def of(cls, model: Any, bias: AttentionBias) -> "Decoder":
        """Take ``model`` apart."""
        parts = split(model)
        config = model.config.get_text_config()
        return cls(
            body=parts.body,
            head=parts.head,
            bias=bias,
            num_layers=config.num_hidden_layers,
            implementation=for_inference(config._attn_implementation),
            dtype=parts.head.weight.dtype,
            shift=int(getattr(model.config, "logit_shift", False)),
            cache_name=name_of_cache(type(parts.body)),
        )

    def forward(self, ids: Tensor, position: Tensor, masks: "Masks", store: KeyValueStore | None = None) -> Tensor:
        """Hidden states (B, Q, H) of ids (B, Q), which see the keys of ``store`` too."""
        if self.body.training:
            # Dropout off, for this forward only.
            self.body.eval()
            try:
                return self.forward(ids, position, masks, store)
            finally:
                self.body.train()
        self.num_forwards += 1
        arguments = masks.arguments(self.body)
        if store is not None:
            arguments[self.cache_name] = store
            # Without a mask of four dimensions transformers would make one for a cache of another kind.
            if arguments["attention_mask"] is None:
                arguments["attention_mask"] = self._nothing_hidden(ids, store)
        with attending_with(self.body, self.implementation):
            output = self.body(input_ids=ids, position_ids=position, use_cache=False, **arguments)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def trial(self, ids: Tensor, position: Tensor) -> Tensor:
        """Hidden states (B, Q, H) of ids (B, Q) that see each other, in a forward that is not counted."""
        hidden = self.forward(ids, position, Masks(None))
        self.num_forwards -= 1
        return hidden

    def _nothing_hidden(self, ids: Tensor, store: KeyValueStore) -> Tensor | None:
        visible = torch.ones(1, ids.shape[1], store.read_to, dtype=torch.bool, device=ids.device)
        return attention_mask_for(visible, implementation=self.implementation, dtype=self.dtype)

    @property
    def biases(self) -> list[AttentionBias]:
        """The bias of each layer."""
        return [bias_of_layer(self.bias, index) for index in range(self.num_layers)]

    def masks(self, layout: SequenceLayout, queries: Tensor, keys: Tensor) -> "Masks":
        """Attention masks of all layers for queries at columns (Q,) and keys at columns (K,) of the layout."""
        if not isinstance(self.bias, LayeredAttentionBias):
            return Masks(self._mask(self.bias, layout, queries, keys))
        biases = self.biases
        distinct: dict[AttentionBias, Tensor | None] = {
            bias: self._mask(bias, layout, queries, keys) for bias in dict.fromkeys(biases)
        }
        return Masks(*(distinct[bias] for bias in biases))

    def _mask(self, bias: AttentionBias, layout: SequenceLayout, queries: Tensor, keys: Tensor) -> Tensor | None:
        visible = visible_keys(bias, layout, queries, keys)
        return attention_mask_for(visible, implementation=self.implementation, dtype=self.dtype)


def name_of_cache(body: type) -> str:
    """How ``forward`` of a body calls its cache: ``cache`` from transformers 5.24 on; before, ``past_key_values``."""
    for each in inspect.getmro(body):  # a class may hand on what it does not name
        names = inspect.signature(vars(each)["forward"]).parameters if "forward" in vars(each) else ()
        for name in ("cache", "past_key_values"):
            if name in names:
                return name
    return "past_key_values"


class Masks:
    """One attention mask for all layers, or one for each: (B, 1, Q, K) or None where nothing is hidden."""

    def __init__(self, *masks: Tensor | None) -> None:
        self._masks = masks

    def arguments(self, body: nn.Module) -> dict[str, Any]:
        """What ``body`` takes for one forward pass."""
        return mask_arguments(body, self._masks)

    def of_rows(self, rows: Tensor) -> "Masks":
        """The masks of some rows."""
        return self._mapped(lambda mask: mask[rows])

    def doubled(self) -> "Masks":
        """The masks of all rows, twice."""
        return self._mapped(lambda mask: mask.repeat(2, 1, 1, 1))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Masks":
        # Layers that share a mask keep sharing it.
        changed = {id(mask): None if mask is None else change(mask) for mask in self._masks}
        return Masks(*(changed[id(mask)] for mask in self._masks))


def visible_keys(bias: AttentionBias, layout: SequenceLayout, queries: Tensor, keys: Tensor) -> Tensor | None:
    """Which keys each query sees, (B, Q, K) bool; None when everybody sees everybody. Padding is hidden from all."""
    # Asking whether there is padding costs one synchronisation a block, and a mask for nothing would cost more.
    has_padding = bool((layout.document[:, keys] < 0).any())
    visibility = Visibility(layout=layout, bias=bias, isolate_documents=False, has_padding=has_padding)
    return visibility.dense(queries, keys)
