from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from dlm.diffusion.vocabulary import word_start_table


def test_byte_level_words_begin_with_white_space_or_are_special(tokenizer):
    starts = word_start_table(tokenizer)
    assert starts.shape == (len(tokenizer),)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    texts = [tokenizer.decode([number]) for number in range(len(tokenizer))]
    for token, text, is_start in zip(tokens, texts, starts.tolist(), strict=True):
        # Control characters other than tab, line feed and return are white space to Python, but separate no words.
        expected = text[:1] in {" ", "\n", "\t", "\r"} or token in tokenizer.all_special_tokens
        assert is_start == expected, token


def test_sentencepiece_words_begin_with_its_own_space():
    vocabulary = {"<s>": 0, "▁the": 1, "re": 2, "▁": 3, "<0x0A>": 4, "<0x41>": 5, ".": 6}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [])), bos_token="<s>")
    assert word_start_table(tokenizer).tolist() == [True, True, False, True, True, False, False]
