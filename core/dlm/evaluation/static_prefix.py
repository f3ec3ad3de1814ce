"""Likelihoods behind a context that no answer changes: its keys and values (KV) are computed once, for all masks.

Exact under an attention bias that claims ``prefix_is_static``; the store is that of the sampler's exact caches.
"""

from typing import Self

import attrs
import numpy as np
import torch
from torch import Tensor

from dlm.data.batch import Batch
from dlm.data.rows import Row
from dlm.diffusion.layout import training_layout
from dlm.sampling.decoder import Decoder
from dlm.sampling.kv_store import KeyValueStore
from dlm_plugins.attention_bias import NEEDS_CLEAN_COPY, PREFIX_IS_STATIC


def static_length(row: Row, decoder: Decoder) -> int:
    """Tokens at the beginning of a row whose keys and values are the same under all masks; 0 where that is not known.

    They are those before the answer, where the row is one text and blocks count from its answer. Rows of a
    [noisy | clean] pair are left to the usual way, and so is a logit shift, for which no such bias is made.
    """
    if not PREFIX_IS_STATIC.of(decoder.bias) or NEEDS_CLEAN_COPY.of(decoder.bias) or decoder.shift:
        return 0
    start = int(row.eligible.argmax())
    is_one_text = bool(row.eligible[start:].all() and (row.document_id == row.document_id[0]).all())
    is_prompt = bool((row.answer_start == start).all() and (row.position == np.arange(len(row.position))).all())
    return start if is_one_text and is_prompt else 0


@attrs.frozen(kw_only=True, eq=False)
class StaticPrefix:
    """A context that has gone through the model."""

    decoder: Decoder
    block_length: int
    length: int
    """c, tokens of the context."""
    store: KeyValueStore
    """Of one row, its keys and values."""

    @classmethod
    def run(cls, decoder: Decoder, batch: Batch, length: int, block_length: int) -> Self:
        """Run the first ``length`` tokens of a batch of one row."""
        place = torch.arange(length, device=batch.input_ids.device)
        store = KeyValueStore(length)
        store.read_to = length
        masks = decoder.masks(training_layout(batch, block_length), place, place)
        decoder.forward(batch.input_ids[:, :length], place[None], masks, store)
        return cls(decoder=decoder, block_length=block_length, length=length, store=store)

    def hidden(self, batch: Batch, ids: Tensor) -> Tensor:
        """(B, T - c, H): the hidden states that predict each position behind the context.

        Args:
            batch: clean rows (B, T) that begin with the context.
            ids: (B, T) int64, what stands there now.
        """
        num_rows, width = ids.shape
        device = ids.device
        answer = torch.arange(self.length, width, device=device)
        masks = self.decoder.masks(
            training_layout(batch, self.block_length), answer, torch.arange(width, device=device)
        )
        store = self.store.repeated(num_rows, width)
        store.write_at, store.read_to = self.length, width
        return self.decoder.forward(ids[:, self.length :], answer.expand(num_rows, -1), masks, store)
