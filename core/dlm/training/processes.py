"""Distributed runs: what rank 0 does for all, broadcast of its result or its error, and whether a launcher is used."""

import os
from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from dlm.errors import DlmError, UserInputError

T = TypeVar("T")


def on_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Do something on the main process while the others wait; all get its result, or all raise its error.

    Raises:
        RuntimeError: On the other processes, where the main one failed in a way that is no message for the user.
    """
    if accelerator.num_processes == 1:
        return action()
    if not accelerator.is_main_process:
        shared: list[tuple[T, Exception | None]] = broadcast_object_list([None])
        if (failure := shared[0][1]) is not None:
            raise failure
        return shared[0][0]
    try:
        result = action()
    except Exception as error:
        is_told = isinstance(error, (DlmError, OSError))
        broadcast_object_list([(None, error if is_told else RuntimeError(f"the main process failed: {error}"))])
        raise
    broadcast_object_list([(result, None)])
    return result


def close_group(accelerator: Accelerator) -> None:
    """End the trackers and the connections between the processes.

    The model that accelerate prepared must be gone by then. What averages its gradients holds the connections too, and
    lets go of Python's lock only where Python itself drops them last: otherwise a process can wait for ever.
    """
    accelerator.free_memory()
    accelerator.wait_for_everyone()  # whoever leaves first takes the connections of the others along
    accelerator.end_training()


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_launch(accelerator: Accelerator) -> None:
    """See that a run has the processes its launcher was asked for, and that they work together as they were told.

    Raises:
        UserInputError: It has not, or they do not.
    """
    if accelerator.num_processes > 1:
        return
    if is_launched():
        raise UserInputError(
            f"the launcher started {os.environ['WORLD_SIZE']} processes, but on {accelerator.device} each would train "
            "alone; start one, or set ACCELERATE_USE_CPU=true to train with several on the CPU"
        )
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        # What accelerate leaves in the environment of the one process it starts on a machine without a GPU.
        raise UserInputError(
            "accelerate launch was asked for several processes and started one, as it does where there is no GPU; "
            "say accelerate launch --multi_gpu --num_processes N, which works on the CPU too"
        )
