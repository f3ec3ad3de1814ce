"""Keys of ``evaluation``, ``logging`` and ``plugins``: how often, on how many rows, trackers, sample prompts."""

from collections.abc import Sequence

import attrs
from attrs.validators import and_, gt, lt, min_len, optional

from dlm.config.fields import POSITIVE, setting


@attrs.frozen(kw_only=True)
class EvaluationConfig:
    """What is measured during training; at step 0 too."""

    do_eval_loss: bool = setting("Measure loss and accuracy on held-out rows.", default=True)
    eval_every_steps: int = setting("Steps between two evaluations.", 200, POSITIVE)
    fraction: float = setting(
        "Share of the rows held out when there is no split of their own.", 0.05, and_(gt(0), lt(1))
    )
    split: str | None = setting("Split to evaluate on, instead of a fraction.", None, optional(min_len(1)))
    max_rows: int = setting(
        "Most held-out rows that are evaluated: where there are more, a fixed sample.", 2000, POSITIVE
    )
    sample_prompts: Sequence[str] = setting("Prompts that are continued at each evaluation.", ())


@attrs.frozen(kw_only=True)
class LoggingConfig:
    """What is reported, and where."""

    every_steps: int = setting("Steps between two lines of metrics.jsonl.", 10, POSITIVE)
    trackers: Sequence[str] = setting("Trackers of accelerate: tensorboard, wandb, ...", ())


@attrs.frozen(kw_only=True)
class PluginsConfig:
    """Which plugins the run may and must use."""

    disable: Sequence[str] = setting("Names of plugins that are not loaded; `all`: every third-party one.", ())
    require: Sequence[str] = setting("Distributions that must be installed: dlm-acme>=0.3.", ())
