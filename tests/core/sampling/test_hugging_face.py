"""``model.generate`` under the argument names of transformers."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, TextStreamer

import dlm
from dlm.errors import UserInputError
from dlm.sampling import GenerateOutput

PROMPT = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_the_names_of_transformers_call_this_loop(model: Any) -> None:
    own = dlm.generate(model, PROMPT, gen_length=12, steps=12).sequences
    assert model.generate(PROMPT, max_new_tokens=12).equal(own)
    assert model.generate(input_ids=PROMPT, attention_mask=torch.ones_like(PROMPT), max_length=15).equal(own)
    config = GenerationConfig(max_new_tokens=12)
    assert model.generate(PROMPT, generation_config=config).equal(own)
    config = GenerationConfig(max_new_tokens=4, do_sample=True, num_return_sequences=3, bos_token_id=1, use_cache=True)
    assert model.generate(PROMPT, generation_config=config).shape == (6, 7)
    blocks = dlm.generate(model, PROMPT, gen_length=12, steps=6, block_length=4, remasking="random").sequences
    assert model.generate(PROMPT, max_new_tokens=12, steps=6, block_length=4, remasking="random").equal(blocks)


def test_sampling_is_asked_for_as_usual(model: Any) -> None:
    own = dlm.generate(model, PROMPT, gen_length=8, steps=8, temperature=0.5, seed=3).sequences
    assert model.generate(PROMPT, max_new_tokens=8, do_sample=True, temperature=0.5, seed=3).equal(own)
    hot = dlm.generate(model, PROMPT, gen_length=8, steps=8, temperature=1.0).sequences
    assert model.generate(PROMPT, max_new_tokens=8, do_sample=True).equal(hot)
    several = model.generate(PROMPT, max_new_tokens=8, do_sample=True, num_return_sequences=3)
    assert several.shape == (6, 11)
    assert several[:, :3].equal(PROMPT.repeat_interleave(3, dim=0))
    assert not several[0].equal(several[1])
    with pytest.raises(UserInputError, match="do_sample"):
        model.generate(PROMPT, do_sample=False, temperature=0.7)


def test_what_follows_the_end_of_the_text_is_padding(model: Any) -> None:
    plain = model.generate(PROMPT, max_new_tokens=12)
    eos_id = int(plain[0, 7])
    ended = model.generate(PROMPT, max_new_tokens=12, eos_token_id=eos_id, pad_token_id=0)
    end = int((plain[0, 3:] == eos_id).nonzero()[0]) + 3
    assert ended[0, : end + 1].equal(plain[0, : end + 1])
    assert (ended[0, end + 1 :] == 0).all()


def test_details_are_returned_on_request(model: Any) -> None:
    output = model.generate(PROMPT, max_new_tokens=5, return_dict_in_generate=True)
    assert isinstance(output, GenerateOutput)
    assert output.num_forwards == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4}, "num_beams"),
        ({"generation_config": GenerationConfig(top_k=20, do_sample=True)}, "top_k"),
        ({"streamer": object()}, "one text"),
        ({"steps": 0}, "steps"),
    ],
)
def test_what_cannot_be_is_refused(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        model.generate(PROMPT, **options)


def test_transformers_does_not_take_the_method_for_its_own(model: Any) -> None:
    assert not model.can_generate()


def test_ids_are_needed(model: Any) -> None:
    with pytest.raises(UserInputError, match="ids of a prompt"):
        model.generate(max_new_tokens=3)


class Collector:
    """A streamer that remembers."""

    def __init__(self) -> None:
        self.parts: list[list[int]] = []
        self.has_ended = False

    def put(self, value: torch.Tensor) -> None:
        assert not self.has_ended
        self.parts.append(value.tolist())

    def end(self) -> None:
        self.has_ended = True


@pytest.mark.parametrize("remasking", ["low_confidence", "threshold", {"name": "remdm", "rate": 0.9}])
@pytest.mark.parametrize("bias", ["full", "block", "block_causal"])
def test_a_streamer_gets_every_id_once_and_in_order(model: Any, bias: str, remasking: Any) -> None:
    collector = Collector()
    arguments: dict[str, Any] = {"block_length": 4, "attention_bias": bias, "remasking": remasking, "seed": 1}
    sequences = model.generate(PROMPT[:1], max_new_tokens=20, streamer=collector, **arguments)
    assert collector.has_ended
    assert collector.parts[0] == PROMPT[0].tolist()
    assert [each for part in collector.parts for each in part] == sequences[0].tolist()
    if bias != "block":
        assert len(collector.parts) > 3, "it is a stream, not a lump at the end"


def test_the_streamer_of_transformers_prints_the_text(
    make_model: Any, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(mask_token_id=47)
    ids = tokenizer("hello", add_special_tokens=False, return_tensors="pt")["input_ids"]
    sequences = model.generate(
        ids, max_new_tokens=8, streamer=TextStreamer(tokenizer, skip_prompt=True), suppress_tokens=range(44, 50)
    )
    assert tokenizer.decode(sequences[0, 5:]).strip() in capsys.readouterr().out


def test_a_tokenizer_is_accepted_and_changes_nothing(make_model: Any) -> None:
    model, ids = make_model(), torch.tensor([[3, 4, 5]])
    plain = model.generate(ids, max_new_tokens=4)
    assert torch.equal(model.generate(ids, max_new_tokens=4, tokenizer=object()), plain)
