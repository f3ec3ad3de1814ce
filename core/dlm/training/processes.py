"""What several processes do as one."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from dlm.errors import DlmError

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
