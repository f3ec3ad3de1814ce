"""The end of a text: what comes after it need not be decoded."""

import torch
from torch import Tensor

from dlm.sampling.canvas import Canvas


def fill_after_end(canvas: Canvas, eos_ids: Tensor) -> Tensor:
    """Fill every block after a finished one that holds an end of text, and say which rows have ended: (B,) bool.

    Only the run of writable positions at the end of a row counts: an end of text before something that was given is no
    end. A block is finished when none of its positions is masked. The positions filled count as given.
    """
    given = canvas.real & ~canvas.writable
    is_tail = canvas.writable & (given.flip(1).cumsum(dim=1).flip(1) == 0)
    never = torch.iinfo(torch.long).max
    unfinished = torch.where(canvas.masked, canvas.block, never).amin(dim=1, keepdim=True)
    is_end = is_tail & torch.isin(canvas.ids, eos_ids) & (canvas.block < unfinished)
    last_block = torch.where(is_end, canvas.block, never).amin(dim=1, keepdim=True)
    after = is_tail & (canvas.block > last_block)
    canvas.ids = torch.where(after, eos_ids[0], canvas.ids)
    canvas.committed_step.masked_fill_(after, -1)
    canvas.block_step.masked_fill_(after, -1)
    canvas.log_probability.masked_fill_(after, 0.0)
    return is_end.any(dim=1)
