"""What Prometheus reads."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
_METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"})


class Metrics:
    """Counters of one service; their labels never hold what a client wrote."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "hm4sr_requests", "Answered requests.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "hm4sr_request_seconds", "Time to an answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.in_flight = Gauge("hm4sr_in_flight", "Requests being answered.", registry=registry)
        self.refused = Counter("hm4sr_refused", "Refused requests, by reason.", ["reason"], registry=registry)
        self.batch_rows = Histogram(
            "hm4sr_batch_rows",
            "Users or histories answered together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
            registry=registry,
        )
        self.waited = Histogram(
            "hm4sr_batch_wait_seconds", "Time from question to batch.", buckets=_SECONDS, registry=registry
        )
        self.answers = Counter("hm4sr_answers", "Answers, by source.", ["source"], registry=registry)
        self.loads = Counter(
            "hm4sr_reloads", "Reloads of the runs, by outcome.", ["outcome"], registry=registry
        )
        self.loaded = Gauge(
            "hm4sr_loaded_timestamp_seconds", "When the runs in use were loaded.", registry=registry
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        self.requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self.registry)
