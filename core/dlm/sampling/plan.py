"""The plan of decoding: steps per block, tokens per step (quota), and which blocks run side by side."""

import heapq
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from dlm.data.batch import sent
from dlm.errors import UserInputError
from dlm.sampling.canvas import Canvas


def quotas(num_masks: int, num_steps: int) -> list[int]:
    """Tokens to commit at each step: an equal share, the remainder one each to the first steps (LLaDA's rule)."""
    base, remainder = divmod(num_masks, num_steps)
    return [base + (step < remainder) for step in range(num_steps)]


def steps_per_block(num_masks: Sequence[int], steps: int) -> list[int]:
    """Share ``steps`` among blocks, at least one each, in proportion to their masks (Adams' method of apportionment).

    Each further step goes to the block that has the most masks for each of its steps, the first of equals. Blocks of
    equal size get equal shares, and ``steps`` equal to the number of masks gives one token a step whatever the sizes.

    Raises:
        UserInputError: fewer steps than blocks.
    """
    if steps < len(num_masks):
        raise UserInputError(
            f"steps is {steps}, but there are {len(num_masks)} blocks to decode, one after another and each in at "
            f"least one step: use steps of at least {len(num_masks)}, or a larger block_length"
        )
    shares = [1] * len(num_masks)
    queue = [(-float(count), index) for index, count in enumerate(num_masks)]
    heapq.heapify(queue)
    for _ in range(steps - len(num_masks)):
        _, index = queue[0]
        shares[index] += 1
        heapq.heapreplace(queue, (-num_masks[index] / shares[index], index))
    return shares


@attrs.frozen(kw_only=True, eq=False)
class Stage:
    """Blocks that are decoded in step with each other: R blocks of K positions. Tensors live on the model's device."""

    row: Tensor
    """(R,) int64: row of the canvas."""
    ordinal: Tensor
    """(R,) int64: number of the block among those of its row that have masks, from 0."""
    columns: Tensor
    """(R, K) int64: where the block's positions are on the canvas; a column inside the canvas where not valid."""
    valid: Tensor
    """(R, K) bool: False beyond the end of the row."""
    quota: Tensor
    """(R, S) int64: tokens to commit at each step."""
    num_steps: int
    rows_on_host: tuple[int, ...]
    """``row``, for which the host need not wait."""
    quotas_on_host: tuple[tuple[int, ...], ...]
    """``quota``, likewise."""

    def of_blocks(self, blocks: Sequence[int]) -> "Stage":
        """Some of the blocks."""
        if len(blocks) == len(self.rows_on_host):
            return self
        index = sent(torch.tensor(blocks), self.row.device)
        return attrs.evolve(
            self,
            row=self.row[index],
            ordinal=self.ordinal[index],
            columns=self.columns[index],
            valid=self.valid[index],
            quota=self.quota[index],
            rows_on_host=tuple(self.rows_on_host[block] for block in blocks),
            quotas_on_host=tuple(self.quotas_on_host[block] for block in blocks),
        )


@attrs.frozen(kw_only=True)
class BlockTask:
    """One block with masks: where it is on the canvas, and how many steps it gets."""

    row: int
    ordinal: int
    """Number of the block among those of its row that have masks, from 0."""
    first_column: int
    end_column: int
    num_masks: int
    num_steps: int


def plan(canvas: Canvas, steps: int, *, side_by_side: bool) -> list[list[Stage]]:
    """Waves of stages. Stages of one wave go through the model together; waves follow each other.

    One after another, wave j holds the j-th block with masks of every row. Side by side, one wave holds everything.

    Raises:
        UserInputError: no masks at all, or more blocks in a row than steps.
    """
    waves: dict[int, list[BlockTask]] = {}
    for task in block_tasks(canvas, steps):
        waves.setdefault(0 if side_by_side else task.ordinal, []).append(task)
    return [wave_of(canvas, waves[number]) for number in sorted(waves)]


def wave_of(canvas: Canvas, tasks: Sequence[BlockTask]) -> list[Stage]:
    """Blocks that go through the model together, in stages by their numbers of steps."""
    stages: dict[int, list[BlockTask]] = {}
    for task in tasks:
        stages.setdefault(task.num_steps, []).append(task)
    return [_stage(canvas, num_steps, members) for num_steps, members in sorted(stages.items())]


def block_tasks(canvas: Canvas, steps: int) -> list[BlockTask]:
    """The blocks with masks, row by row, and in each row from first to last.

    Raises:
        UserInputError: no masks at all, or more blocks in a row than steps.
    """
    block, writable, real = canvas.block.tolist(), canvas.writable.tolist(), canvas.real.tolist()
    tasks: list[BlockTask] = []
    for row in range(len(block)):
        masks: dict[int, int] = {}
        first: dict[int, int] = {}
        end = 0
        for column, (number, is_mask, is_real) in enumerate(zip(block[row], writable[row], real[row], strict=True)):
            first.setdefault(number, column)
            masks[number] = masks.get(number, 0) + is_mask
            end = column + 1 if is_real else end
        numbers = [number for number in sorted(masks) if masks[number]]
        shares = steps_per_block([masks[number] for number in numbers], steps) if numbers else []
        tasks += [
            BlockTask(
                row=row,
                ordinal=ordinal,
                first_column=first[number],
                end_column=min(first[number] + canvas.block_length, end),
                num_masks=masks[number],
                num_steps=share,
            )
            for ordinal, (number, share) in enumerate(zip(numbers, shares, strict=True))
        ]
    if not tasks:
        raise UserInputError("nothing to generate: gen_length is 0 and no id is the mask; raise gen_length")
    return tasks


def _stage(canvas: Canvas, num_steps: int, tasks: Sequence[BlockTask]) -> Stage:
    device = canvas.ids.device
    length = min(canvas.block_length, max(task.end_column - task.first_column for task in tasks))
    first = torch.tensor([task.first_column for task in tasks])
    end = torch.tensor([task.end_column for task in tasks])
    columns = first[:, None] + torch.arange(length)
    quotas_on_host = tuple(tuple(quotas(task.num_masks, num_steps)) for task in tasks)
    return Stage(
        row=torch.tensor([task.row for task in tasks], device=device),
        ordinal=torch.tensor([task.ordinal for task in tasks], device=device),
        columns=columns.clamp(max=canvas.ids.shape[1] - 1).to(device),
        valid=(columns < end[:, None]).to(device),
        quota=torch.tensor(quotas_on_host, device=device),
        num_steps=num_steps,
        rows_on_host=tuple(task.row for task in tasks),
        quotas_on_host=quotas_on_host,
    )


def columns_of(wave: list[Stage]) -> tuple[int, int]:
    """First column of a wave's blocks, and the one after their last."""
    start = min(int(stage.columns[:, 0].min()) for stage in wave)
    stop = max(int(stage.columns[stage.valid].max()) for stage in wave) + 1
    return start, stop
