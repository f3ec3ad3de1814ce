"""One block of several rows at once, each with its own prefix: rows are joined for a block, and go apart after it."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch

from dlm.config.sampling_settings import APPROXIMATE_CACHES, SamplingSettings
from dlm.sampling.api import GenerateState, prepare, snapshot
from dlm.sampling.canvas import Canvas
from dlm.sampling.full_forward import Runner
from dlm.sampling.loop import Loop
from dlm.sampling.plan import BlockTask, block_tasks, wave_of
from dlm.sampling.resolve import ResolvedSettings


@attrs.define(kw_only=True, eq=False)
class RowOnItsWay:
    """A text between two blocks: its canvas of one row, what is kept of its prefix, and the blocks that are left."""

    loop: Loop
    cache: str
    settings: SamplingSettings
    """Those that all rows of a joint block share; what may differ is left out."""
    tasks: deque[BlockTask]

    @classmethod
    def of(cls, model: Any, ids: Sequence[int], settings: SamplingSettings, key: int) -> "RowOnItsWay":
        """Lay out a prompt.

        Raises:
            UserInputError: it does not fit, or the settings do not.
        """
        device = next(model.parameters()).device
        input_ids = torch.tensor([ids], dtype=torch.long, device=device)
        loop, way = prepare(model, input_ids, settings, row_keys=torch.tensor([key]))
        return cls(
            loop=loop,
            cache=way.cache,
            settings=attrs.evolve(settings, gen_length=None, steps=None, block_length=None, seed=0),
            tasks=deque(block_tasks(loop.canvas, loop.settings.steps)),
        )

    @property
    def is_complete(self) -> bool:
        """Whether no block is left."""
        return not self.tasks

    def state(self, seconds: float = 0.0) -> GenerateState:
        """How it stands, on the CPU: the event loop looks at it, and must not wait for a device at its next step."""
        return snapshot(self.loop, self.cache, int(self.loop.row_steps), seconds).on_host()

    def goes_with(self, other: "RowOnItsWay") -> bool:
        """Whether both can be in one joint block without a difference to either."""
        if self is other:
            return True
        same_way = type(self.loop.forward) is type(other.loop.forward) and self.cache not in APPROXIMATE_CACHES
        return same_way and self.settings == other.settings


class JointBlock:
    """The next block of some rows that go together. Exact: no row sees another, and each draws from its own key."""

    def __init__(self, rows: Sequence[RowOnItsWay]) -> None:
        self._rows = rows
        tasks = [row.tasks[0] for row in rows]
        loops = [row.loop for row in rows]
        waves = [wave_of(loop.canvas, [task]) for loop, task in zip(loops, tasks, strict=True)]
        with torch.no_grad():
            prefixes = [loop.forward.prefix(wave) for loop, wave in zip(loops, waves, strict=True)]
        self._kept = [kept for kept, _ in prefixes]
        self._starts = [start for _, start in prefixes]
        self._place = max(self._kept)
        canvas = Canvas.joined([loop.canvas for loop in loops], self._kept, self._starts)
        first = loops[0]
        self._decoder = attrs.evolve(first.decoder, num_forwards=0)
        runner = Runner(decoder=self._decoder, canvas=canvas, cfg_scale=first.settings.cfg_scale)
        self._loop = Loop(
            decoder=self._decoder,
            canvas=canvas,
            forward=first.forward.joined(runner, [loop.forward for loop in loops], self._kept),
            settings=_joined_settings(loops),
            row_steps=torch.cat([loop.row_steps for loop in loops]),
        )
        self._wave = wave_of(canvas, [self._moved(task, row) for row, task in enumerate(tasks)])

    def steps(self) -> Iterator[float]:
        """Decode the block; yields the seconds of each step, after which :meth:`bring` shows it."""
        for seconds in self._loop.decode(self._wave):
            self._count()
            yield seconds

    def bring(self, index: int) -> None:
        """Bring a row up to date."""
        row, loop = self._rows[index], self._loop
        loop.canvas.give(row.loop.canvas, index, self._place, self._starts[index])
        row.loop.row_steps = loop.row_steps[index : index + 1]

    def end(self) -> None:
        """Take the rows apart again: each has what was written, and what is kept for its next block."""
        ended = self._loop.ended.tolist()
        if any(len(row.tasks) > 1 and not is_ended for row, is_ended in zip(self._rows, ended, strict=True)):
            self._loop.keep(self._wave)
            self._count()
        for index, (row, is_ended) in enumerate(zip(self._rows, ended, strict=True)):
            self.bring(index)
            task = row.tasks.popleft()
            if is_ended:
                row.tasks.clear()
            if row.tasks:
                num_columns = task.end_column - self._starts[index]
                self._loop.forward.give(row.loop.forward, index, self._kept[index], num_columns)

    def _count(self) -> None:
        """Each row has taken part in the forwards."""
        for row in self._rows:
            row.loop.decoder.num_forwards += self._decoder.num_forwards
        self._decoder.num_forwards = 0

    def _moved(self, task: BlockTask, row: int) -> BlockTask:
        shift = self._place - self._starts[row]
        return attrs.evolve(task, row=row, first_column=task.first_column + shift, end_column=task.end_column + shift)


def _joined_settings(loops: Sequence[Loop]) -> ResolvedSettings:
    seeds = tuple(seed for loop in loops if isinstance(seed := loop.settings.seed, int))
    return attrs.evolve(
        loops[0].settings,
        row_keys=torch.cat([loop.settings.row_keys for loop in loops]),
        seed=seeds[0] if len(set(seeds)) == 1 else seeds,
    )
