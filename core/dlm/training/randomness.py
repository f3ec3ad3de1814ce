"""Seeds of the global random generators, deterministic algorithms, and their state in a checkpoint."""

import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def use_deterministic(wanted: bool) -> None:
    """Let torch use deterministic algorithms only, or any: what the last run of this process wanted is still set."""
    torch.use_deterministic_algorithms(wanted)
    if not wanted:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Filling fresh memory finds reads of uninitialised values; it is slow, and says nothing about determinism.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, for whoever uses them: the core itself does not."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def generator_states() -> dict[str, object]:
    """The global generators' states in numbers, lists and tensors, which load without unpickling code."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        # That of this process's own device: a run may go on where there are fewer.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def restore_generators(states: Mapping[str, Any]) -> None:
    """Put the global generators back."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state(states["cuda"][0])
