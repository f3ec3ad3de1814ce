"""The ``configuration_sdar.py`` of an exported folder, for AutoConfig with trust_remote_code."""

from typing import Any

from transformers import Qwen3Config


class SDARConfig(Qwen3Config):
    """All fields of Qwen3, and those of block diffusion: ``block_size`` and ``mask_token_id``."""

    model_type = "sdar"

    def __init__(self, rope_theta: float = 1000000.0, **kwargs: Any) -> None:
        # null in these folders, and a deprecated argument in transformers 5.
        kwargs.pop("rope_scaling", None)
        kwargs["rope_theta"] = rope_theta
        super().__init__(**kwargs)
        # transformers 5 keeps it in rope_parameters only; engines read it here.
        self.rope_theta = rope_theta
