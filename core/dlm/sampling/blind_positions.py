"""Ties: positions predicted from the same (a block that sees nothing but masks) get one prediction, in order.

Otherwise the order of summation would decide between them, which differs from cache to cache and from batch to batch.
With equal predictions the earlier position comes first.

What sees nothing but masks takes averages of one and the same value in every layer, whatever their weights: with rotary
positions, which enter into the weights only, all such positions are equal. Where a model adds positions to its inputs
they are not.
"""

import logging
from functools import cached_property, lru_cache

import attrs
import torch
from torch import Tensor

from dlm.sampling.canvas import Canvas
from dlm.sampling.decoder import Decoder, visible_keys
from dlm.sampling.full_forward import layout_of
from dlm.sampling.plan import Stage, columns_of
from dlm.sampling.resolve import ResolvedSettings
from dlm_plugins import SequenceLayout
from dlm_plugins.attention_bias import BLOCKS_ARE_INDEPENDENT

logger = logging.getLogger(__name__)

# B rows of T positions on the canvas, N positions are predicted, Q queries, H hidden.


@attrs.define(eq=False)
class Ties:
    """Finds the positions whose predictions are equal, up to the order of summation."""

    _decoder: Decoder
    _canvas: Canvas
    _visible: list[Tensor | None] | None = attrs.field(init=False, default=None)
    """(B, T, T) bool of each layer, None where everybody sees everybody; None: no blind positions are alike."""
    _sources_are_shared: bool = attrs.field(init=False, default=False)

    def begin(self, wave: list[Stage]) -> None:
        """Look whether active positions can be predicted from the same: in most waves none can, and the steps cost no
        more. Whether they are is decided in each step, without a wait for the device.
        """
        canvas, layout = self._canvas, layout_of(self._canvas, wave)
        start, stop = columns_of(wave)
        columns = torch.arange(canvas.ids.shape[1], device=canvas.ids.device)
        active = columns[max(start - self._decoder.shift, 0) : stop]
        sees = self._known[:, active]
        for visible in self._by_layer(layout, active, columns):
            sees = sees | _reached(visible, self._known)
        blind = canvas.real[:, active] & ~sees
        # Under a shift, the first two positions of a text that was not given any.
        first = canvas.writable[:, active] & (canvas.position[:, active] == 0)
        some_are_blind, some_are_first = torch.stack((blind.any(), first.any())).tolist()
        self._sources_are_shared = bool(self._decoder.shift) and some_are_first
        are_alike = some_are_blind and self._places_are_alike
        self._visible = self._by_layer(layout, columns, columns) if are_alike else None

    def leaders(self, at_row: Tensor, at_source: Tensor, ordinal: Tensor) -> Tensor | None:
        """(N,) int64: the first of the positions that share a prediction, itself where none; None: nobody can.

        Args:
            at_row: (N,) int64, and the others likewise, block by block in the order of the positions.
            at_source: column whose hidden state predicts the position.
            ordinal: of the position's block among those of its row.
        """
        if self._visible is None and not self._sources_are_shared:
            return None
        same = at_source[1:] == at_source[:-1]
        if self._visible is not None:
            blind = self._blind(self._visible)[at_row, at_source]
            same = same | (blind[1:] & blind[:-1])
        same = same & (at_row[1:] == at_row[:-1]) & (ordinal[1:] == ordinal[:-1])
        index = torch.arange(len(at_row), device=at_row.device)
        index[1:].masked_fill_(same, 0)
        return index.cummax(dim=0).values

    @cached_property
    def _places_are_alike(self) -> bool:
        """Whether masks that see nothing else are the same to the model, wherever they stand."""
        positions = torch.arange(int(self._canvas.position.max()) + 1, device=self._canvas.ids.device)[None]
        hidden = self._decoder.trial(torch.full_like(positions, self._canvas.mask_id), positions)
        return _are_close(hidden[0, 0], hidden[0, -1])

    @property
    def _known(self) -> Tensor:
        """(B, T) bool: where a token stands."""
        return self._canvas.real & ~self._canvas.masked

    def _by_layer(self, layout: SequenceLayout, queries: Tensor, keys: Tensor) -> list[Tensor | None]:
        biases = self._decoder.biases
        distinct = {bias: visible_keys(bias, layout, queries, keys) for bias in dict.fromkeys(biases)}
        return [distinct[bias] for bias in biases]

    def _blind(self, visible_by_layer: list[Tensor | None]) -> Tensor:
        """(B, T) bool: positions that no token reaches, by way of others either."""
        sees = self._known
        for visible in visible_by_layer:
            sees = sees | _reached(visible, sees)
        return ~sees


def _reached(visible: Tensor | None, sees: Tensor) -> Tensor:
    """(B, Q), or (B, 1) where everybody sees everybody: queries that see a position which has seen a token."""
    return sees.any(dim=1, keepdim=True) if visible is None else (visible & sees[:, None, :]).any(dim=2)


def _are_close(one: Tensor, other: Tensor) -> bool:
    """Whether hidden states (H,) differ by rounding only. Added positions make them differ by much."""
    exact = torch.promote_types(one.dtype, torch.float32)
    # No less than float32: the softmax of eager attention is taken in it.
    tolerance = max(torch.finfo(one.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    one, other = one.to(exact), other.to(exact)
    # Most entries, not all: one that is nearly zero has a large relative error.
    agree = (one - other).abs() <= tolerance * other.abs()
    return bool(agree.sum() * 2 > len(agree))


def warn_of_blind_blocks(canvas: Canvas, settings: ResolvedSettings) -> None:
    """Say, once a process, that blocks without a given token will not follow the prompt."""
    if not (settings.blocks_from_start and BLOCKS_ARE_INDEPENDENT.of(settings.bias)):
        return
    held = torch.zeros_like(canvas.block).scatter_add_(
        1, canvas.block.clamp(min=0), (canvas.real & ~canvas.writable).long()
    )
    if bool((canvas.writable & (held.gather(1, canvas.block.clamp(min=0)) == 0)).any()):
        _tell_once(type(settings.bias).__name__)


@lru_cache(maxsize=1)
def _tell_once(bias: str) -> None:
    logger.warning(
        "this model's blocks see themselves only (%s, counted from the start of the text): blocks that hold no given "
        "token do not follow the prompt",
        bias,
    )
