"""Built-in remasking rules by name: which predictions are kept at a step, which go back to mask.

"Exact" in their docstrings means: the same law as committing one token a step in the same order. Tokens committed in
one step are predicted without knowledge of each other, so that every rule that may commit several is approximate there.
"""

from collections.abc import Mapping

from dlm_builtin_plugins.remasking.confidence_temperature import ConfidenceTemperature
from dlm_builtin_plugins.remasking.dynamic_threshold import DynamicThreshold
from dlm_builtin_plugins.remasking.entropy import LowEntropy
from dlm_builtin_plugins.remasking.factor import Factor
from dlm_builtin_plugins.remasking.low_confidence import LowConfidence
from dlm_builtin_plugins.remasking.margin import LargeMargin
from dlm_builtin_plugins.remasking.random import RandomOrder
from dlm_builtin_plugins.remasking.random_topk import RandomTopK
from dlm_builtin_plugins.remasking.remdm import ReMDM
from dlm_builtin_plugins.remasking.threshold import Threshold
from dlm_plugins import Remasker

COMPONENTS: Mapping[str, type[Remasker]] = {
    "low_confidence": LowConfidence,
    "random": RandomOrder,
    "random_topk": RandomTopK,
    "threshold": Threshold,
    "dynamic_threshold": DynamicThreshold,
    "factor": Factor,
    "confidence_temperature": ConfidenceTemperature,
    "entropy": LowEntropy,
    "margin": LargeMargin,
    "remdm": ReMDM,
}
