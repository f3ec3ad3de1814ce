"""Train a tokenizer (byte-level BPE) on the data set itself."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dlm.errors import DataError

END_OF_TEXT = "<|endoftext|>"
_NUM_BYTES = 256


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, mask_token: str = "<|mask|>", min_frequency: int = 2
) -> PreTrainedTokenizerFast:
    """Train byte-level byte-pair encoding (Sennrich et al. 2016; on bytes as in GPT-2): nothing is ever unknown.

    The result depends on the texts alone. Ids: ``<|endoftext|>`` (end of text and padding) 0, the mask 1, then the 256
    bytes, then merges.

    Args:
        texts: read once.
        vocab_size: at most this many ids, the two special tokens and the 256 bytes included; at least 258.
        mask_token: text of the mask token.
        min_frequency: pairs seen less often are not merged.

    Raises:
        DataError: ``vocab_size`` too small, or a mask token that is empty or the end of text.
    """
    smallest = _NUM_BYTES + 2
    if vocab_size < smallest:
        raise DataError(
            f"model.tokenizer.train.vocab_size: {vocab_size} is too small; 256 bytes and 2 special tokens need "
            f"at least {smallest}"
        )
    if not mask_token or mask_token == END_OF_TEXT:
        raise DataError(
            f"model.mask_token: {mask_token!r} cannot be used; it must be a text of its own, not {END_OF_TEXT!r}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[END_OF_TEXT, mask_token],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(  # its constructor takes anything
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        mask_token=mask_token,
        clean_up_tokenization_spaces=False,
    )
