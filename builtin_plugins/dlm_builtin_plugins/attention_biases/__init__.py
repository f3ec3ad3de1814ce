"""Built-in attention biases by name: who may see whom. The core isolates documents and hides padding by itself."""

from collections.abc import Mapping

from dlm_builtin_plugins.attention_biases.alternating import AlternatingAttention
from dlm_builtin_plugins.attention_biases.annealed import AnnealedAttention
from dlm_builtin_plugins.attention_biases.block import BlockAttention
from dlm_builtin_plugins.attention_biases.block_causal import BlockCausalAttention
from dlm_builtin_plugins.attention_biases.full import FullAttention
from dlm_builtin_plugins.attention_biases.per_layer import PerLayerAttention
from dlm_plugins import AttentionBias

COMPONENTS: Mapping[str, type[AttentionBias]] = {
    "full": FullAttention,
    "block": BlockAttention,
    "block_causal": BlockCausalAttention,
    "alternating": AlternatingAttention,
    "per_layer": PerLayerAttention,
    "annealed": AnnealedAttention,
}
