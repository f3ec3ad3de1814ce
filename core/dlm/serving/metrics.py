"""Metrics of the server for Prometheus: requests, tokens, rows at work and waiting, seconds to the answer."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dlm.serving.engine import Engine

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """What is counted, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "dlm_requests", "Requests by path and status.", ("path", "status"), registry=self._registry
        )
        self.prompt_tokens = Counter("dlm_prompt_tokens", "Tokens of prompts.", registry=self._registry)
        self.completion_tokens = Counter("dlm_completion_tokens", "Tokens of texts.", registry=self._registry)
        self.cancelled = Counter("dlm_cancelled", "Requests whose client had gone.", registry=self._registry)
        self.seconds = Histogram(
            "dlm_request_seconds", "From a request to the end of its text.", registry=self._registry, buckets=_SECONDS
        )
        for name, text, read in (
            ("dlm_rows_live", "Texts that are being written.", lambda: engine.num_live),
            ("dlm_rows_waiting", "Texts that wait for their turn.", lambda: engine.num_waiting),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def page(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
