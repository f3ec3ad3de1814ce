"""Built-in noise types by name: what stands at a corrupted position."""

from collections.abc import Mapping

from dlm_builtin_plugins.noise_types.mask import MaskNoise
from dlm_builtin_plugins.noise_types.random_replace import RandomReplaceNoise
from dlm_plugins import NoiseType

COMPONENTS: Mapping[str, type[NoiseType]] = {
    "mask": MaskNoise,
    "random_replace": RandomReplaceNoise,
}
