"""The objective: body, head at scored positions, loss, logit shift. This module is what accelerate prepares."""

from collections.abc import Callable
from typing import TypeVar

import attrs
import torch
from torch import Tensor, nn

from dlm.data.batch import Batch
from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.layout import shift_source, training_layout, visibility, with_clean_copy
from dlm.diffusion.sums import Sums
from dlm.diffusion.view import BatchView
from dlm.diffusion.vocabulary import Vocabulary
from dlm.model.layer_masks import stack_layer_masks
from dlm.model.masks import attention_mask_for
from dlm_plugins import AttentionBias, LayeredAttentionBias, Loss, SequenceLayout
from dlm_plugins.attention_bias import NEEDS_CLEAN_COPY

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Visibility:
    """Who sees whom, and how the model's attention wants to be told."""

    bias: AttentionBias
    block_length: int
    num_layers: int
    implementation: str
    dtype: torch.dtype

    def mask(self, body: nn.Module, layout: SequenceLayout, batch: Batch) -> Tensor | None:
        """The attention mask of a forward pass over ``layout``; stacked by layer where layers differ."""
        isolate, has_padding = batch.isolate_documents, batch.has_padding

        def mask_of(bias: AttentionBias) -> Tensor | None:
            visible = visibility(layout, bias, isolate_documents=isolate, has_padding=has_padding)
            return attention_mask_for(visible, implementation=self.implementation, dtype=self.dtype)

        if not isinstance(self.bias, LayeredAttentionBias):
            return mask_of(self.bias)
        biases = [self.bias.for_layer(index) for index in range(self.num_layers)]
        masks = {bias: mask_of(bias) for bias in set(biases)}
        return stack_layer_masks(body, [masks[bias] for bias in biases])


class DiffusionObjective(nn.Module):
    """Loss of a noised batch. (B, L, V) logits never exist: the loss asks for cross-entropy where it scores."""

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        *,
        loss: Loss,
        vocabulary: Vocabulary,
        visibility: Visibility,
        logit_shift: bool,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self._loss = loss
        self._vocabulary = vocabulary
        self._visibility = visibility
        self._logit_shift = logit_shift

    def forward(self, noised: NoisedBatch) -> tuple[Tensor, Tensor]:
        """Return the loss's total (a sum, differentiable) and the sums of :class:`dlm.diffusion.sums.Sums`, packed."""
        hidden_BLH = self._hidden(noised)
        view = BatchView(noised, hidden_BLH, self.head, self._vocabulary)
        output = self._loss(view)
        return output.total, Sums.pack(view, output.total, output.normaliser)

    def lend(self, action: Callable[[], T]) -> T:
        """What ``action`` returns, which uses body and head by themselves.

        To a sharded model this is a forward pass: embedding and head are gathered meanwhile, by whoever sharded it.
        """
        return action()

    def _hidden(self, noised: NoisedBatch) -> Tensor:
        batch, ids, positions = noised.clean, noised.noisy_ids, noised.clean.position_ids
        layout = training_layout(batch, self._visibility.block_length)
        source = shift_source(batch, layout, self._visibility.bias) if self._logit_shift else None
        if NEEDS_CLEAN_COPY.of(self._visibility.bias):
            ids, positions = torch.cat((ids, batch.input_ids), dim=1), positions.repeat(1, 2)
            layout = with_clean_copy(layout)
        mask = self._visibility.mask(self.body, layout, batch)
        output = self.body(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        if source is None:
            return hidden[:, : batch.input_ids.shape[1]]
        return hidden.gather(1, source[:, :, None].expand(-1, -1, hidden.shape[2]))
