"""Text shown token by token: whole characters, wherever a border falls, and not a byte of them lost."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dlm.data.batch import Batch
from dlm.diffusion.forward_process import NoisedBatch
from dlm.sampling.pieces import num_whole, pieces_of, whole_characters
from dlm.training.noised_pieces import noised_pieces

BROKEN = "\N{REPLACEMENT CHARACTER}"
MERGES = [("Â", "°"), ("â", "Ķ"), ("Ģ", "â"), ("4", "9"), ("°", "Â")]
"""Bytes of ``°`` and of box-drawing characters, whole characters and parts of two neighbours."""


def byte_level(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *map("".join, merges)])}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


BYTES, MERGED = byte_level([]), byte_level(MERGES)
TOKENIZERS = pytest.mark.parametrize("tokenizer", [BYTES, MERGED], ids=["bytes", "merges"])
TEXTS = st.text(st.one_of(st.sampled_from("°é日─\U0001f600�\u200d 49a\n"), st.characters(codec="utf-8")), max_size=12)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


@TOKENIZERS
@given(text=TEXTS)
def test_whole_characters_are_the_text_and_none_is_broken(tokenizer: Any, text: str) -> None:
    ids = ids_of(tokenizer, text)
    groups = list(whole_characters(tokenizer, ids))
    assert [each for group, _ in groups for each in group] == ids
    assert "".join(shown for _, shown in groups) == text
    assert all((BROKEN in shown) <= (BROKEN in text) for _, shown in groups)
    assert "".join(piece or "" for piece in pieces_of(tokenizer, ids)) == text
    if tokenizer is BYTES and BROKEN not in text:
        assert [shown for _, shown in groups] == list(text)  # the shortest groups there are


@TOKENIZERS
@given(data=st.data())
def test_ids_that_are_no_text_lose_nothing(tokenizer: Any, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=12))
    groups = list(whole_characters(tokenizer, ids))
    assert [each for group, _ in groups for each in group] == ids
    assert "".join(shown for _, shown in groups) == decoded(tokenizer, ids)


@TOKENIZERS
@given(text=TEXTS, data=st.data())
def test_what_stands_between_masks_is_all_shown(tokenizer: Any, text: str, data: st.DataObject) -> None:
    ids: list[int | None] = [*ids_of(tokenizer, text)]
    for hole in data.draw(st.sets(st.integers(0, max(len(ids) - 1, 0)))):
        ids[hole : hole + 1] = [None] * len(ids[hole : hole + 1])
    holes = [-1, *(place for place, each in enumerate(ids) if each is None), len(ids)]
    pieces = pieces_of(tokenizer, ids)
    assert [piece is None for piece in pieces] == [each is None for each in ids]
    for left, right in pairwise(holes):
        run = [each for each in ids[left + 1 : right] if each is not None]
        assert "".join(map(str, pieces[left + 1 : right])) == decoded(tokenizer, run)


@TOKENIZERS
@given(text=TEXTS)
def test_at_every_border_what_is_held_back_completes_a_character(tokenizer: Any, text: str) -> None:
    ids = ids_of(tokenizer, text)
    for border in range(len(ids) + 1):
        num = num_whole(tokenizer, ids[:border])
        assert 0 <= num <= border
        assert decoded(tokenizer, ids[:num]) + decoded(tokenizer, ids[num:]) == text
    assert num_whole(tokenizer, ids_of(tokenizer, text + "a")) == len(ids_of(tokenizer, text + "a"))


class Counting:
    """A tokenizer that counts what it decodes."""

    num_decoded = 0

    def decode(self, ids: list[int], **options: bool) -> str:
        self.num_decoded += len(ids)
        return str(BYTES.decode(ids, **options))


def test_the_end_of_a_long_stream_costs_no_more_than_its_beginning() -> None:
    ids, tokenizer = ids_of(BYTES, "擴散語言模型 " * 40), Counting()
    for border in range(len(ids) - 30, len(ids) + 1):
        assert border - 3 <= num_whole(tokenizer, ids[:border]) <= border
    assert tokenizer.num_decoded <= 31 * 4 * 4


def test_bytes_that_belong_to_nothing_are_held_back_for_a_while_only() -> None:
    lonely = ids_of(BYTES, "°")[1]
    assert num_whole(BYTES, [lonely] * 40) >= 37


class Speaker:
    """A streamer that decodes what it gets at once, as a page or a voice does."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.said: list[str] = []

    def put(self, value: torch.Tensor) -> None:
        self.said.append(decoded(self.tokenizer, value.tolist()))

    def end(self) -> None:
        pass


@pytest.mark.parametrize("seed", [0, 1])
def test_a_streamer_gets_the_bytes_of_a_character_together(make_model: Any, seed: int) -> None:
    model = make_model(seed, vocab_size=len(BYTES), mask_token_id=len(BYTES) - 1)
    used = ids_of(BYTES, "°9")
    others = sorted(set(range(len(BYTES))) - set(used))
    speaker = Speaker(BYTES)
    arguments: dict[str, Any] = {"block_length": 1, "temperature": 1.0, "suppress_tokens": others, "seed": seed}
    sequences = model.generate(torch.tensor([used]), max_new_tokens=60, streamer=speaker, **arguments)
    text = decoded(BYTES, sequences[0].tolist())
    assert text.count("°") > 3, "the test needs such characters"
    assert "".join(speaker.said) == text
    assert len(speaker.said) > 20, "it is a stream, not a lump at the end"


@given(text=st.permutations("°é日─\U0001f60049a").map("".join), data=st.data())
def test_a_noised_row_is_marked_by_whole_characters(text: str, data: st.DataObject) -> None:
    mask_id = len(BYTES) - 1
    ids = torch.tensor([ids_of(BYTES, text)])
    kinds = st.sampled_from(("clean", "masked", "replaced"))
    noise = data.draw(st.lists(kinds, min_size=ids.shape[1], max_size=ids.shape[1]))
    corrupted = torch.tensor([[kind != "clean" for kind in noise]])
    noisy = torch.tensor([[mask_id if kind == "masked" else ids_of(BYTES, "x")[0] for kind in noise]])
    zeros = torch.zeros(ids.shape)
    clean = Batch(
        input_ids=ids,
        document_id=zeros.long(),
        position=zeros.long(),
        eligible=zeros == 0,
        answer_start=zeros.long(),
        answer_length=None,
        row_index=torch.tensor([0]),
        isolate_documents=False,
    )
    rates = dict.fromkeys(("p_mask", "weight", "t", "rate", "rate_derivative"), zeros)
    noised = NoisedBatch(clean=clean, noisy_ids=torch.where(corrupted, noisy, ids), corrupted=corrupted, **rates)
    pieces = list(noised_pieces(noised, 0, BYTES, mask_id))
    assert [piece.kind for piece in pieces for _ in range(piece.num_tokens)] == noise
    shown = [(piece.kind, character) for piece in pieces for character in piece.text]
    of_tokens = iter(noise)
    for (kind, character), expected in zip(shown, text, strict=True):
        own = [next(of_tokens) for _ in expected.encode()]
        assert (kind, character) == (next((each for each in own if each != "clean"), "clean"), expected)
