"""The objective: body, head at scored positions, loss, logit shift. This module is what accelerate prepares."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dlm.data.batch import Batch, LayoutKey
from dlm.diffusion.cross_entropy import SamplingLaw
from dlm.diffusion.forward_process import NoisedBatch
from dlm.diffusion.layout import Moment, padded, shift_source, training_layout, with_causal_copy, with_clean_copy
from dlm.diffusion.sums import Sums
from dlm.diffusion.view import BatchView
from dlm.diffusion.vocabulary import Vocabulary
from dlm.model.attention import Visibility, score_dtype
from dlm.model.layer_masks import mask_arguments
from dlm.model.masks import AttentionMask
from dlm_plugins import AttentionBias, Loss
from dlm_plugins.attention_bias import NEEDS_CLEAN_COPY, bias_at_end
from dlm_plugins.loss import FIGURES

if TYPE_CHECKING:
    from dlm.diffusion.reference import Reference

T = TypeVar("T")


def same_length(length: int) -> int:
    """No padding."""
    return length


class States(NamedTuple):
    """Hidden states (B, L, H) that predict each position of a batch."""

    noisy: Tensor
    """From the noisy rows."""
    causal: Tensor | None
    """From the clean tokens before it alone, where there is a causal copy."""


@attrs.frozen(kw_only=True)
class Attention:
    """How the body attends: under which bias, with which implementation, over rows of which lengths."""

    bias: AttentionBias
    block_length: int
    num_layers: int
    implementation: str
    has_causal_copy: bool = False
    """Whether a clean copy of the rows runs beside them, causal and apart from them."""
    padded_length: Callable[[int], int] = same_length
    """Length to which rows of a length are padded for the body, where each length would be compiled anew."""

    _last: dict[LayoutKey, list[AttentionMask | None]] = attrs.field(factory=dict, init=False, eq=False)
    """The masks of the last batch: often the next one has the same layout."""

    def hidden(
        self,
        body: nn.Module,
        ids: Tensor,
        batch: Batch,
        *,
        logit_shift: bool,
        layout_key: LayoutKey | None = None,
        moment: Moment | None = None,
    ) -> States:
        """The hidden states that predict each position.

        Args:
            body: of the model.
            ids: (B, L) int64, what stands there now.
            batch: the clean rows.
            logit_shift: whether a position is predicted from the one before.
            layout_key: of ``batch``, where masks of the last batch are to be used again if they fit.
            moment: of the run, while it trains.
        """
        length, positions, layout = ids.shape[1], batch.position_ids, training_layout(batch, self.block_length)
        source = shift_source(batch, layout, self.bias) if logit_shift else None
        if NEEDS_CLEAN_COPY.of(self.bias):
            ids, positions = torch.cat((ids, batch.input_ids), dim=1), positions.repeat(1, 2)
            layout = with_clean_copy(layout)
        causal_from = ids.shape[1] if self.has_causal_copy else None
        if causal_from is not None:
            ids, positions = torch.cat((ids, batch.input_ids), dim=1), torch.cat((positions, batch.position_ids), dim=1)
            layout = with_causal_copy(layout, length)
        if padding := self.padded_length(ids.shape[1]) - ids.shape[1]:
            ids, positions, layout = pad(ids, (0, padding)), pad(positions, (0, padding)), padded(layout, padding)
        if moment is not None and bias_at_end(self.bias) != self.bias:
            layout, layout_key = moment.seen(layout, batch.row_index), None
        visibility = Visibility(
            layout=layout,
            bias=self.bias,
            isolate_documents=batch.isolate_documents,
            has_padding=batch.has_padding or padding > 0,
            causal_from=causal_from,
        )
        masks = mask_arguments(body, self._masks(visibility, score_dtype(body), layout_key))
        hidden: Tensor = body(input_ids=ids, position_ids=positions, use_cache=False, **masks).last_hidden_state
        # One column to the left: what predicts the first position of a text is not used.
        causal = None if causal_from is None else hidden[:, causal_from - 1 : causal_from - 1 + length]
        if source is None:
            return States(hidden[:, :length], causal)
        return States(hidden.gather(1, source[:, :, None].expand(-1, -1, hidden.shape[2])), causal)

    def _masks(
        self, visibility: Visibility, dtype: torch.dtype, layout_key: LayoutKey | None
    ) -> list[AttentionMask | None]:
        document = visibility.layout.document
        key = None if layout_key is None else (*layout_key, document.shape, document.device, dtype)
        if key is not None and key in self._last:
            return self._last[key]
        self._last.clear()  # before the new ones take memory
        masks = visibility.of_layers(self.num_layers, self.implementation, dtype)
        if key is not None:
            self._last[key] = masks
        return masks


class DiffusionObjective(nn.Module):
    """Loss of a noised batch. (B, L, V) logits never exist: the loss asks for cross-entropy where it scores."""

    reference: "Reference | None" = None
    """What the loss compares with. Set where the objective is put together; no part of what is trained."""

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        *,
        loss: Loss,
        vocabulary: Vocabulary,
        attention: Attention,
        logit_shift: bool,
        compiles: bool = False,
        law: SamplingLaw | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self._loss = loss
        self._vocabulary = vocabulary
        self._attention = attention
        self._logit_shift = logit_shift
        self._compiles = compiles
        self._law = law

    def forward(self, noised: NoisedBatch) -> tuple[Tensor, Tensor]:
        """Return the loss's total (a sum, differentiable) and the sums of :class:`dlm.diffusion.sums.Sums`, packed."""
        view = self.view_of(noised)
        output = self._loss(view)
        sums = Sums.pack(view, output.total, output.normaliser)
        if names := FIGURES.of(self._loss):
            sums = torch.cat((sums, torch.stack([output.figures[name].float() for name in names])))
        return output.total, sums

    @torch.no_grad()
    def log_probabilities(self, noised: NoisedBatch) -> Tensor:
        """(B, L): log-probability of the clean ids where they are scored, under the law if there is one; else 0."""
        values = self.view_of(noised).log_probabilities(noised.scored)
        return values.new_zeros(noised.scored.shape).masked_scatter_(noised.scored, values)

    def facts(self) -> dict[str, object]:
        """What must be the same when a run is resumed, and no checkpoint holds."""
        return {} if self.reference is None else self.reference.facts()

    def lend(self, action: Callable[[], T]) -> T:
        """What ``action`` returns, which uses body and head by themselves.

        To a sharded model this is a forward pass: embedding and head are gathered meanwhile, by whoever sharded it.
        """
        return action()

    def view_of(self, noised: NoisedBatch) -> BatchView:
        """Run the body, and return what a loss sees."""
        states = self._states(noised)
        return BatchView(
            noised,
            states.noisy,
            self.head,
            self._vocabulary,
            compiles=self._compiles,
            law=self._law,
            causal=states.causal,
        )

    def _states(self, noised: NoisedBatch) -> States:
        return self._attention.hidden(
            self.body,
            noised.noisy_ids,
            noised.clean,
            logit_shift=self._logit_shift,
            layout_key=noised.layout_key,
            moment=noised.moment,
        )
