import logging

import pytest

import dlm


@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, True)])
def test_training_on_with_another_shift_is_told(bench, caplog: pytest.LogCaptureFixture, before, after) -> None:
    """The default of a run file must not undo in silence what a model was trained with."""
    config = bench.run_file({"model.logit_shift": before})
    final = dlm.run(config).output_dir / "final"
    assert dlm.load(final).config.logit_shift is before
    caplog.clear()
    second = [f"model.name_or_path={final}", "model.config=null", "model.tokenizer=null"]
    with caplog.at_level(logging.WARNING):
        dlm.run(config, [*second, f"model.logit_shift={str(after).lower()}", f"training.output_dir={final.parent}-2"])
    told = [line for line in caplog.messages if "model.logit_shift" in line]
    assert len(told) == (before is not after)
