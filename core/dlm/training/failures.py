"""Out of memory (OOM), a dead data worker, a third party's code: failures of a run in words for the user."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dlm.config import LoadedConfig, run_components
from dlm.config.optim_section import DEFAULT_OPTIMIZER
from dlm.data.loader import worker_failure
from dlm.errors import DlmError, OutOfMemoryError, UserInputError
from dlm.training.processes import is_launched, lost_process
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
        raise _out_of_memory(loaded, error) from error
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
            raise _out_of_memory(loaded, error) from error
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


def _out_of_memory(loaded: LoadedConfig, error: BaseException) -> OutOfMemoryError:
    training, max_length = loaded.config.training, loaded.config.dataset.max_length
    details = str(error).splitlines()[0] if str(error) else "no details"
    listing = "".join(f"\n  {settings}: {saving}" for settings, saving in _what_needs_less(loaded))
    return OutOfMemoryError(
        f"out of memory at batch_size {training.batch_size} and max_length {max_length} ({details}). "
        f"What needs less:{listing}"
    )


def _what_needs_less(loaded: LoadedConfig) -> Iterator[tuple[str, str]]:
    """Settings that the run does not have yet, and what each saves."""
    config, training = loaded.config, loaded.config.training
    if training.batch_size > 1:
        parts = 2 if training.batch_size % 2 == 0 else training.batch_size
        rows, accumulation = training.batch_size // parts, parts * training.gradient_accumulation_steps
        settings = f"training.batch_size={rows} training.gradient_accumulation_steps={accumulation}"
        yield settings, f"about 1/{parts} of the activations, the same result"
    if not training.gradient_checkpointing:
        yield "training.gradient_checkpointing=true", "activations of one layer at a time, about a third slower"
    is_plain = loaded.registry.entry_of(config.optim.optimizer).qualified_name == f"{BUILTIN}:{DEFAULT_OPTIMIZER}"
    if is_plain and (not is_launched() or training.parallel.shard == 1):  # 8 bits cannot be sharded
        yield "optim.name=adamw8bit", "optimizer state of 2 instead of 8 bytes a parameter"
    yield f"dataset.max_length={max(2, config.dataset.max_length // 2)}", "about half the activations, of shorter rows"
