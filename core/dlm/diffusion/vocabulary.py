"""What diffusion knows of the tokenizer: mask id, size, special ids, where words begin (whole-word masking)."""

import attrs
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@attrs.frozen(kw_only=True, eq=False)
class Vocabulary:
    """Ids of a tokenizer, on the host, where noise is drawn."""

    size: int
    """Number of ids the tokenizer knows; the embedding may have more rows."""
    mask_id: int
    special_ids: Tensor
    """(S,) int64: special tokens, the mask among them."""
    starts_word: Tensor
    """(V,) bool: whether a token begins a new word."""

    def words_of(self, input_ids: Tensor, document_id: Tensor) -> Tensor:
        """Number of the word each position belongs to: (B, L) int64 from 0 in each row; -1 on padding."""
        starts = self.starts_word[input_ids.clamp(max=self.size - 1)]
        new_document = document_id[:, 1:] != document_id[:, :-1]
        starts = torch.cat((torch.ones_like(starts[:, :1]), starts[:, 1:] | new_document), dim=1)
        return torch.where(document_id >= 0, starts.long().cumsum(dim=1) - 1, -1)


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
