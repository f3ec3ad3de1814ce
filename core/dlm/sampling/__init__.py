"""Sampling: text from masks, one denoising step after another, with or without KV cache."""

from dlm.sampling.api import GenerateOutput, GenerateState, generate, iter_generate
from dlm.sampling.texts import Completion, complete_texts, fill_passage

__all__ = [
    "Completion",
    "GenerateOutput",
    "GenerateState",
    "complete_texts",
    "fill_passage",
    "generate",
    "iter_generate",
]
