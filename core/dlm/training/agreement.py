"""Do all processes train the same? Run file and data of each host are compared before the first step."""

import socket
from collections.abc import Mapping

from accelerate import Accelerator

from dlm.errors import UserInputError
from dlm.training.processes import gather


def check_agreement(accelerator: Accelerator, facts: Mapping[str, object]) -> None:
    """See that all processes train the same: each host reads a run file, and data, of its own.

    Args:
        accelerator: knows the processes. All must call.
        facts: have to be the same everywhere.

    Raises:
        UserInputError: On all of them, where one differs from the first.
    """
    if accelerator.num_processes == 1:
        return
    own = (socket.gethostname(), dict(facts))
    (host, first), *others = gather(accelerator, own, "the others to say what they train")
    for rank, (other, theirs) in enumerate(others, 1):
        for key in {**first, **theirs}:
            if first.get(key) != theirs.get(key):
                raise UserInputError(
                    f"{key}: {first.get(key)!r} in process 0 (on {host}), {theirs.get(key)!r} in process {rank} (on "
                    f"{other}); all processes need the same run file and the same data: copy them to each host"
                )
