"""Do all processes train the same? Each host's run file, model, data and versions, compared before the first step."""

import socket
from collections.abc import Callable, Mapping

from accelerate import Accelerator

from dlm.errors import UserInputError
from dlm.training.processes import gather


def check_agreement(
    accelerator: Accelerator, facts: Mapping[str, object], may_differ: Callable[[str], bool] = lambda key: False
) -> list[str]:
    """See that all processes train the same: each host reads a run file, a model and data of its own.

    Args:
        accelerator: knows the processes. All must call.
        facts: have to be the same everywhere.
        may_differ: which of them, by name, need not be the same.

    Returns:
        What differs and may, to be told.

    Raises:
        UserInputError: On all of them, where one differs from the first.
    """
    if accelerator.num_processes == 1:
        return []
    own = (socket.gethostname(), dict(facts))
    (host, first), *others = gather(accelerator, own, "the others to say what they train")
    differences: dict[str, str] = {}
    for rank, (other, theirs) in enumerate(others, 1):
        for key in {**first, **theirs}:
            if first.get(key) != theirs.get(key):
                said = (
                    f"{first.get(key)!r} in process 0 (on {host}), {theirs.get(key)!r} in process {rank} (on {other})"
                )
                differences.setdefault(key, f"{key}: {said}")
    for key, difference in differences.items():
        if not may_differ(key):
            raise UserInputError(
                f"{difference}; all processes need the same run file, model and data: copy them to each host"
            )
    return [f"not the same everywhere: {difference}" for difference in differences.values()]
