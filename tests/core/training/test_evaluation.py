"""Evaluation: which rows, how many of them, and the same numbers however they are shared out."""

from types import SimpleNamespace

import pytest
import torch

from dlm.config import load_config
from dlm.errors import UserInputError
from dlm.model.body_and_head import decoder_layers
from dlm.training.dry_run import describe_run
from dlm.training.model_and_noise import build_tokenizer
from dlm.training.report import Report
from dlm.training.run_data import prepare_data

EVALUATED = ("evaluation.do_eval_loss=true", "evaluation.fraction=0.4", "evaluation.max_rows=5")
SPLITS = (
    ("training.batch_size=2",),
    ("training.batch_size=3", "training.gradient_accumulation_steps=2"),
    ("training.batch_size=1", "dataset.num_workers=1"),
)


SEED = ("training.seed=1",)


def rows_by_index(batches) -> dict[int, list[int]]:
    """Real tokens of each evaluation row, by its index among all of them."""
    return {
        index: ids[document >= 0].tolist()
        for batch in batches
        for index, ids, document in zip(batch.row_index.tolist(), batch.input_ids, batch.document_id, strict=True)
        if index >= 0
    }


@pytest.mark.parametrize("split", SPLITS)
def test_rows_and_loss_do_not_depend_on_how_they_are_shared_out(make_engine, split) -> None:
    whole, other = make_engine(*EVALUATED).evaluation, make_engine(*EVALUATED, *split).evaluation
    assert rows_by_index(other.batches) == rows_by_index(whole.batches)
    assert len(rows_by_index(whole.batches)) == 5
    expected, found = whole().sums, other().sums
    assert found.rows == expected.rows == 5
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("training.loss_impl=elbo", "training.noise.schedule=cosine"),
        ("training.noise.schedule={name: power, exponent: 3.0}", "training.noise.min_masking_rate=0.3"),
        ("model.logit_shift=true",),
    ],
    ids=str,
)
def test_the_loss_is_the_mean_over_counts_of_the_bound(make_engine, changes) -> None:
    """Computed once more from the masked rows, with the model's own forward: L / k times the cross-entropy, a token."""
    engine = make_engine("model.dtype=float64", *EVALUATED, *changes)
    evaluation, model, shift = engine.evaluation, engine.saver.objects.model, "logit_shift" in str(changes)
    total, tokens, counts = 0.0, 0, []
    for batch in evaluation.batches:
        noised = evaluation.forward_process(batch, step=0, num_rows=evaluation.num_rows)
        for ids, noisy, document in zip(batch.input_ids, noised.noisy_ids, batch.document_id, strict=True):
            ids, noisy = ids[document >= 0], noisy[document >= 0]
            if len(ids) == 0:
                continue
            masked = noisy == model.config.mask_token_id
            with torch.no_grad():
                logits = model.eval()(input_ids=noisy[None]).logits[0]
            if shift:
                logits = torch.cat((logits[:1], logits[:-1]))
            cross_entropy = torch.nn.functional.cross_entropy(logits[masked], ids[masked], reduction="sum")
            counts.append(int(masked.sum()))
            total += float(cross_entropy) * len(ids) / counts[-1]
            tokens += len(ids)
    assert evaluation().loss == pytest.approx(total / tokens, rel=1e-6)  # it is summed up in float32
    assert len(set(counts)) > 2


def test_two_ranks_share_the_rows_of_one(run_file) -> None:
    config = load_config(run_file, EVALUATED).config
    tokenizer = build_tokenizer(config)

    def of_rank(rank: int, num_ranks: int) -> dict[int, list[int]]:
        place = SimpleNamespace(process_index=rank, num_processes=num_ranks, device=torch.device("cpu"))
        return rows_by_index(prepare_data(config, tokenizer, place).evaluation)

    parts = [of_rank(rank, 2) for rank in range(2)]
    assert {**parts[0], **parts[1]} == of_rank(0, 1)
    assert not parts[0].keys() & parts[1].keys()


def test_another_seed_takes_other_rows_and_fewer_rows_leave_the_training_as_it_is(make_engine) -> None:
    engine, reseeded, more = (make_engine(*EVALUATED, *extra) for extra in ((), SEED, ("evaluation.max_rows=7",)))
    assert rows_by_index(engine.evaluation.batches) != rows_by_index(reseeded.evaluation.batches)
    assert engine.data.loader.rows.fingerprint == more.data.loader.rows.fingerprint


def test_the_dry_run_says_how_many_rows_of_how_many(run_file, make_engine) -> None:
    lines = describe_run(load_config(run_file, EVALUATED)).splitlines()
    (line,) = [each for each in lines if each.startswith("evaluation ")]
    num_held_out = make_engine(*EVALUATED, "evaluation.max_rows=1000").evaluation.num_rows
    assert num_held_out > 5
    assert line.split(maxsplit=1)[1] == f"5 of {num_held_out} held-out rows"
    assert "evaluation      none" in describe_run(load_config(run_file, ["evaluation.do_eval_loss=false"]))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("evaluation.sample_prompts=[the noise]", "sampling.gen_length=100000"), "exceed the model's context"),
        (("evaluation.sample_prompts=[the <|mask|>]",), "holds the mask token"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused_before_the_first_step(make_engine, overrides, reason) -> None:
    with pytest.raises(UserInputError, match=f"evaluation.sample_prompts cannot be continued: .*{reason}"):
        make_engine(*overrides)


def test_samples_are_decoded_in_the_blocks_of_the_model(make_engine) -> None:
    """Its own block length is the one it is trained with, unless the section ``sampling`` names another."""
    prompts = ("evaluation.sample_prompts=[the noise]", "sampling.gen_length=24", "sampling.steps=24")

    own, named, other = (
        make_engine(*prompts, *each).sampler()[0].ids
        for each in ((), ("sampling.block_length=8",), ("sampling.block_length=3",))
    )
    assert own == named != other


def test_compiled_layers_are_for_training_and_its_evaluation_alone(make_engine) -> None:
    """With a cache each layer would be compiled for itself, and soon none any more: torch counts them together."""
    compiled = []

    def keep(graph, inputs):
        compiled.append(graph)
        return graph.forward

    block_causal = [f"training.block_attention.{each}" for each in ("enabled=true", "bias=block_causal")]
    engine = make_engine(*EVALUATED, *block_causal, "evaluation.sample_prompts=[the noise]", "sampling.cache=prompt")
    for layer in decoder_layers(engine.saver.objects.model, wanted_by="this test"):
        layer.compile(backend=keep)

    assert engine.sampler()[0].ids
    Report(engine).passage()  # what the run closes with
    assert not compiled
    engine.evaluation()
    assert compiled
