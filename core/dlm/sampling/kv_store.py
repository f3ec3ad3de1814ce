"""The KV store: keys and values of canvas positions, kept between forwards."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache


class KeyValueStore(Cache):
    """A cache of transformers that is written to where the sampler says, and read from its start.

    One buffer a layer, (B, heads, capacity, head size). A forward over Q positions overwrites slots ``write_at`` to
    ``write_at + Q`` and attends to slots 0 to ``read_to``: writing does not move anything, so that the same block can
    be run again and again behind the same prefix.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self.write_at = 0
        self.read_to = 0
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new keys and values, (B, heads, Q, head size) each."""
        return (
            self._written(self._keys, key_states, layer_idx),
            self._written(self._values, value_states, layer_idx),
        )

    def _written(self, buffers: dict[int, Tensor], states: Tensor, layer: int) -> Tensor:
        if layer not in buffers:
            num_rows, num_heads, _, size = states.shape
            buffers[layer] = states.new_zeros(num_rows, num_heads, self.capacity, size)
        buffers[layer][:, :, self.write_at : self.write_at + states.shape[2]] = states
        return buffers[layer][:, :, : self.read_to]

    def of_rows(self, rows: Tensor) -> "KeyValueStore":
        """A copy of some rows; what is written to it does not come back."""
        chosen = KeyValueStore(self.capacity)
        chosen.write_at, chosen.read_to = self.write_at, self.read_to
        chosen._keys = {layer: buffer[rows] for layer, buffer in self._keys.items()}
        chosen._values = {layer: buffer[rows] for layer, buffer in self._values.items()}
        return chosen

    def repeated(self, num_rows: int, capacity: int) -> "KeyValueStore":
        """A store of one row as that of ``num_rows``, each with ``capacity`` slots, no fewer than it has."""
        many = KeyValueStore(capacity)
        many.write_at, many.read_to = self.write_at, self.read_to
        for own, target in ((self._keys, many._keys), (self._values, many._values)):
            for layer, buffer in own.items():
                _, num_heads, length, size = buffer.shape
                target[layer] = buffer.new_empty(num_rows, num_heads, capacity, size)
                target[layer][:, :, :length] = buffer
        return many

    @classmethod
    def joined(
        cls, parts: Sequence["KeyValueStore"], lengths: Sequence[int], *, num_copies: int, capacity: int
    ) -> "KeyValueStore":
        """One store for several: the first slots of each, moved so that all of them end at the same slot.

        Args:
            parts: of one row each, and its unconditional copy where there is guidance.
            lengths: how many slots of each.
            num_copies: rows of each part. The joined rows are the first of all parts, then the second.
            capacity: slots of each row, no less than the most of ``lengths``.
        """
        joint, end = cls(capacity), max(lengths)
        for layer in {layer: None for part in parts for layer in part._keys}:
            for of_joint, of_part in ((joint._keys, "_keys"), (joint._values, "_values")):
                held: list[Tensor | None] = [getattr(part, of_part).get(layer) for part in parts]
                some = next(each for each in held if each is not None)
                buffer = some.new_zeros(num_copies * len(parts), some.shape[1], capacity, some.shape[3])
                for row, (each, length) in enumerate(zip(held, lengths, strict=True)):
                    if each is not None:
                        buffer[row :: len(parts), :, end - length : end] = each[:, :, :length]
                of_joint[layer] = buffer
        return joint

    def give(self, part: "KeyValueStore", rows: slice, slots: slice, start: int) -> None:
        """Copy slots of some rows into another store, from its slot ``start`` on."""
        for own, target in ((self._keys, part._keys), (self._values, part._values)):
            for layer, buffer in own.items():
                given = buffer[rows, :, slots]
                if layer not in target:
                    target[layer] = given.new_zeros(len(given), given.shape[1], part.capacity, given.shape[3])
                target[layer][:, :, start : start + given.shape[2]] = given

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Slots before those that are written."""
        return self.write_at

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Number of keys and the first one's place."""
        return self.read_to, 0
