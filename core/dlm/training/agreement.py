"""Do all processes train the same? Each host's run file, model, data and versions, compared before the first step."""

import socket
from collections.abc import Iterator, Mapping

from accelerate import Accelerator

from dlm.errors import UserInputError
from dlm.training.processes import gather
from dlm.training.run_identity import only_warns


def check_agreement(accelerator: Accelerator, facts: Mapping[str, object]) -> None:
    """See that all processes train the same: each host reads a run file, a model and data of its own.

    Args:
        accelerator: knows the processes. All must call.
        facts: have to be the same everywhere.

    Raises:
        UserInputError: On all of them, where one differs from the first.
    """
    for difference in _differences(accelerator, facts):
        raise UserInputError(
            f"{difference}; all processes need the same run file, model and data: copy them to each host"
        )


def check_identity(accelerator: Accelerator, identity: Mapping[str, object]) -> list[str]:
    """The same of what a checkpoint would be compared with; what only warns there is returned, to be told.

    Args:
        accelerator: knows the processes. All must call.
        identity: of :func:`dlm.training.run_identity.identity_of`.

    Raises:
        UserInputError: On all of them, where one differs from the first in what has to be the same.
    """
    free = {key: value for key, value in identity.items() if only_warns(key)}
    check_agreement(accelerator, {key: value for key, value in identity.items() if key not in free})
    return [f"not the same everywhere: {difference}" for difference in _differences(accelerator, free)]


def _differences(accelerator: Accelerator, facts: Mapping[str, object]) -> Iterator[str]:
    """What is not as in process 0, once for each fact. All must call, and come to the same."""
    if accelerator.num_processes == 1:
        return
    own = (socket.gethostname(), dict(facts))
    (host, first), *others = gather(accelerator, own, "the others to say what they train")
    told = set()
    for rank, (other, theirs) in enumerate(others, 1):
        for key in {**first, **theirs}:
            if first.get(key) != theirs.get(key) and key not in told:
                told.add(key)
                yield (
                    f"{key}: {first.get(key)!r} in process 0 (on {host}), {theirs.get(key)!r} in process {rank} (on "
                    f"{other})"
                )
