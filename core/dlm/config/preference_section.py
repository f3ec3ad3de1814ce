"""Keys of section ``preference``: what pairs of answers are compared under (mode preference, DPO)."""

import attrs
from attrs.validators import min_len, optional

from dlm.config.fields import setting


@attrs.frozen(kw_only=True)
class PreferenceConfig:
    """Learning from pairs of a chosen and a rejected answer."""

    reference: str | None = setting(
        "Model that the loss compares with, a name or folder; null: the run's own, before its first step.",
        None,
        optional(min_len(1)),
    )
