"""Out of memory (OOM), a dead data worker, a third party's code: failures of a run in words for the user."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dlm.config import LoadedConfig, RunConfig, run_components
from dlm.data.loader import worker_failure
from dlm.errors import DlmError, OutOfMemoryError, UserInputError
from dlm.training.processes import lost_process
from dlm_plugins.discovery import BUILTIN


@contextmanager
def explained(loaded: LoadedConfig) -> Iterator[None]:
    """Turn errors of the device and of data workers into messages; to any other, note whose code was at work.

    Raises:
        OutOfMemoryError: The device has no memory left.
        DataError: A data worker died.
        LostProcessError: Another process of the run is gone.
        UserInputError: The optimizer cannot work on a sharded model.
    """
    try:
        with _naming_plugins(loaded):
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(loaded.config, error) from error
    except NotImplementedError as error:
        if "sharding strategy" in str(error):  # what torch says where an operation does not know spread tensors
            raise UserInputError(
                f"optim: this optimizer cannot work on a sharded model ({error}); adamw can"
            ) from error
        raise
    except RuntimeError as error:
        if failure := worker_failure(error) or lost_process(error):
            raise failure from error
        if "can't allocate memory" in str(error):  # what the CPU's allocator says
            raise _out_of_memory(loaded.config, error) from error
        raise


@contextmanager
def _naming_plugins(loaded: LoadedConfig) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        names = run_components(loaded.config, loaded.registry).names
        foreign = {kind: name for kind, name in names.items() if not name.startswith(f"{BUILTIN}:")}
        if foreign and not isinstance(error, DlmError):
            plugins = dict.fromkeys(name.partition(":")[0] for name in foreign.values())
            listing = ", ".join(f"{kind} {name}" for kind, name in foreign.items())
            checks = ", ".join(f"`dlm plugins check {plugin}`" for plugin in plugins)
            error.add_note(f"Components of third parties took part: {listing}. {checks} tries what they promise.")
        raise


def _out_of_memory(config: RunConfig, error: BaseException) -> OutOfMemoryError:
    training, max_length = config.training, config.dataset.max_length
    half, accumulation = max(1, training.batch_size // 2), training.gradient_accumulation_steps
    return OutOfMemoryError(
        f"out of memory at batch_size {training.batch_size} and max_length {max_length} "
        f"({str(error).splitlines()[0] if str(error) else 'no details'}). Three settings need less:\n"
        f"  training.batch_size={half} training.gradient_accumulation_steps={2 * accumulation}: about half the "
        "activations, the same result\n"
        "  training.gradient_checkpointing=true: activations of one layer at a time, about a third slower\n"
        "  optim.name=adamw8bit: optimizer state of 2 instead of 8 bytes a parameter"
    )
