"""Models: Qwen3 as a diffusion language model, any other decoder, conversion and comparison of checkpoints."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from dlm.model.configuration_qwen3llada import Qwen3LLadaConfig
from dlm.model.modeling_qwen3llada import Qwen3LLadaForMaskedLM, Qwen3LLadaModel

__all__ = ["Qwen3LLadaConfig", "Qwen3LLadaForMaskedLM", "Qwen3LLadaModel", "register_auto_classes"]


def register_auto_classes() -> None:
    """Make ``qwen3llada`` known to transformers' Auto classes. Calling it again changes nothing."""
    AutoConfig.register(Qwen3LLadaConfig.model_type, Qwen3LLadaConfig, exist_ok=True)
    AutoModel.register(Qwen3LLadaConfig, Qwen3LLadaModel, exist_ok=True)
    AutoModelForMaskedLM.register(Qwen3LLadaConfig, Qwen3LLadaForMaskedLM, exist_ok=True)


register_auto_classes()
