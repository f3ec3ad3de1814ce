"""What ``dlm.generate`` is handed from Python: ids, attention mask and row keys, checked for type, shape and range."""

from typing import Any

import torch
from torch import Tensor

from dlm.errors import UserInputError

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_input_ids(input_ids: Any, vocabulary_size: int) -> None:
    """Refuse anything but (rows, positions) of ids in the vocabulary.

    Raises:
        UserInputError: with what was expected.
    """
    _check_integers("input_ids", input_ids, "(rows, positions)")
    if input_ids.ndim != 2:
        raise UserInputError(f"input_ids must be (rows, positions), not {tuple(input_ids.shape)}")
    if not len(input_ids):
        raise UserInputError("input_ids has no rows; an empty prompt is one row of 0 positions, shape (1, 0)")
    wrong = (input_ids < 0) | (input_ids >= vocabulary_size)
    if bool(wrong.any()):
        row, position = wrong.nonzero()[0].tolist()
        raise UserInputError(
            f"input_ids: {int(input_ids[row, position])} in row {row} at position {position} is outside the "
            f"vocabulary, 0 to {vocabulary_size - 1}"
        )


def check_attention_mask(attention_mask: Any, input_ids: Tensor) -> None:
    """Refuse anything but 1 at tokens and 0 at padding, in the shape of ``input_ids``.

    Raises:
        UserInputError: with what was expected.
    """
    if not isinstance(attention_mask, Tensor):
        raise UserInputError(
            f"attention_mask must be a tensor of 1 at tokens and 0 at padding, not {type(attention_mask).__name__}"
        )
    if attention_mask.shape != input_ids.shape:
        raise UserInputError(
            f"attention_mask is {tuple(attention_mask.shape)}, input_ids are {tuple(input_ids.shape)}: they must match"
        )
    if not bool(((attention_mask == 0) | (attention_mask == 1)).all()):
        raise UserInputError("attention_mask must be 1 at tokens and 0 at padding; it has other values")


def check_row_keys(row_keys: Any, num_rows: int) -> None:
    """Refuse anything but one integer for each row.

    Raises:
        UserInputError: with what was expected.
    """
    _check_integers("row_keys", row_keys, f"({num_rows},)")
    if row_keys.shape != (num_rows,):
        raise UserInputError(f"row_keys must be ({num_rows},), one for each row, not {tuple(row_keys.shape)}")


def _check_integers(name: str, value: Any, shape: str) -> None:
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise UserInputError(f"{name} must be a tensor {shape} of int64, not {kind}: torch.tensor(...) makes one")
    if value.dtype not in _INTEGERS:
        raise UserInputError(
            f"{name} must be a tensor {shape} of int64, not of {str(value.dtype).removeprefix('torch.')}"
        )
