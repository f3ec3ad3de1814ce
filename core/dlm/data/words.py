"""Where words begin, read off the tokens themselves, for whole-word masking."""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_BYTE_LEVEL_SPACES = ("Ġ", "Ċ", "ĉ", "č")
"""How byte-level vocabularies write space, line feed, tab and carriage return."""
_SENTENCEPIECE_SPACES = ("▁", "\n", "\t", " ", "<0x0A>", "<0x09>", "<0x20>")


def word_start_table(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """(V,) bool, V = number of ids of the tokenizer: whether a token begins a new word.

    It does where it starts with white space, in the notation of byte-level or SentencePiece vocabularies, and where it
    is a special token. Punctuation counts to the word before it.
    """
    num_ids = max(tokenizer.get_vocab().values()) + 1
    starts = torch.zeros(num_ids, dtype=torch.bool)
    for token, number in tokenizer.get_vocab().items():
        starts[number] = token.startswith((*_BYTE_LEVEL_SPACES, *_SENTENCEPIECE_SPACES))
    special = [number for number in tokenizer.all_special_ids if number < num_ids]
    starts[special] = True
    return starts
