"""Built-in metrics by name: what an item of an evaluation is worth, from likelihoods or from written answers."""

from collections.abc import Mapping

from dlm_builtin_plugins.metrics.answers import Contains, ExactMatch, Number, Pattern
from dlm_builtin_plugins.metrics.diversity import DistinctN, Entropy
from dlm_builtin_plugins.metrics.likelihoods import Accuracy, Elbo
from dlm_plugins import Metric

COMPONENTS: Mapping[str, type[Metric]] = {
    "elbo": Elbo,
    "accuracy": Accuracy,
    "exact_match": ExactMatch,
    "contains": Contains,
    "number": Number,
    "pattern": Pattern,
    "distinct_n": DistinctN,
    "entropy": Entropy,
}
