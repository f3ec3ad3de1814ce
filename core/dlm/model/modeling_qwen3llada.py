"""Qwen3 as a masked diffusion language model: Qwen3's own layers, bidirectional attention, a masked-LM head."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast, MaskedLMOutput
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model, Qwen3PreTrainedModel

from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig
from dlm.model.generate_mixin import GeneratesByUnmasking
from dlm.model.masks import model_attention_mask

# B rows, L positions, Q queries, K keys, H hidden size, V vocabulary, N selected positions.


class Qwen3LLadaPreTrainedModel(Qwen3PreTrainedModel):
    """Ties the classes below to their configuration."""

    config_class = Qwen3LLadaConfig
    config: Qwen3LLadaConfig


class Qwen3LLadaModel(Qwen3LLadaPreTrainedModel, Qwen3Model):
    """The decoder body: token ids (B, L) to hidden states (B, L, H), every position seeing every other."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_bias: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Compute the hidden states.

        Args:
            input_ids: (B, L) int64, each in [0, V). Exactly one of this and ``inputs_embeds`` is given.
            attention_mask: (B, K) with 1 or True at real tokens; or a four-dimensional mask from ``dlm.model.masks``.
            position_ids: (B, L) or (1, L) int64; from 0 by default, padding included.
            inputs_embeds: (B, L, H).
            attention_bias: (B, 1, Q, K) floating, 0 where a query sees a key and -inf where it does not. Combined
                with a padding mask; a query that would see nothing sees everything instead.
            **kwargs: What Qwen3 takes besides. ``use_cache`` has no effect: no cache is ever made here, but one that
                is passed (``cache``, or ``past_key_values`` before transformers 5.24) is used and filled.

        Raises:
            ModelError: A mask or bias of another form, or an attention implementation that cannot take it.
        """
        kwargs["use_cache"] = False
        kwargs["attention_mask"] = model_attention_mask(
            attention_mask,
            attention_bias,
            implementation=self.config._attn_implementation or "eager",
            dtype=self.dtype,
        )
        output: BaseModelOutputWithPast = super().forward(
            input_ids=input_ids, position_ids=position_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        return output


class Qwen3LLadaForMaskedLM(GeneratesByUnmasking, Qwen3LLadaPreTrainedModel):
    """The decoder body and a linear head over the vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 - transformers' own interface

    def __init__(self, config: Qwen3LLadaConfig) -> None:
        super().__init__(config)
        self.model = Qwen3LLadaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_bias: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Compute logits, at all positions or only where they are wanted.

        Args:
            input_ids: As in ``Qwen3LLadaModel.forward``, like the other arguments that are not named here.
            attention_mask: (B, K) padding mask, or a four-dimensional mask.
            position_ids: (B, L) or (1, L).
            inputs_embeds: (B, L, H).
            attention_bias: (B, 1, Q, K), 0 visible and -inf hidden.
            labels: (B, L) int64, -100 where nothing is scored. The loss is the plain mean cross-entropy in float32;
                position i is scored at position i.
            logits_to_keep: The positions the head runs at. An int n: the last n, 0 all of them. (P,) int64: the same
                positions in each row. (B, P) int64: positions of each row. (B, L) bool: the True ones, flattened.

        Returns:
            ``logits`` (B, L, V), (B, P, V), or (N, V) for a boolean selection; ``loss`` when labels are given.
        """
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            attention_bias=attention_bias,
            **kwargs,
        )
        logits = self.lm_head(at_positions(output.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            kept_labels = at_positions(labels[..., None], logits_to_keep)[..., 0]
            loss = F.cross_entropy(logits.float().flatten(0, -2), kept_labels.flatten())
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )


def at_positions(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """Choose positions of ``hidden`` (B, L, H), with the meanings that ``logits_to_keep`` has in transformers.

    Args:
        hidden: (B, L, H) of any dtype.
        logits_to_keep: An int n: the last n positions, 0 all of them. (P,) int64: the same positions in each row.
            (B, P) int64: positions of each row. (B, L) bool: the True ones.

    Returns:
        (B, n, H), (B, P, H), or (N, H) for a boolean selection with N positions, row by row.
    """
    if isinstance(logits_to_keep, int):
        return hidden[:, -logits_to_keep:] if logits_to_keep else hidden
    if logits_to_keep.ndim == 2 and logits_to_keep.dtype == torch.bool:
        return hidden[logits_to_keep]
    if logits_to_keep.ndim == 2:
        return torch.take_along_dim(hidden, logits_to_keep[..., None], dim=1)
    return hidden[:, logits_to_keep]
