"""What a server measures, by the names of vLLM's metrics, and its log of requests as JSON lines."""

import json
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prefix_jax.serving.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Telemetry:
    """Counters and histograms of one server."""

    def __init__(self, engine: Engine):
        self._registry = registry = CollectorRegistry()
        label = ["model_name"]

        def gauge(name: str, about: str, value: Any, owner: str = "vllm") -> None:
            Gauge(f"{owner}:{name}", about, registry=registry).set_function(value)

        gauge("compiled_programs", "Programs compiled so far; constant while serving.", engine.programs, "prefix_jax")
        gauge("num_requests_running", "Requests in slots.", lambda: engine.counts[0])
        gauge("num_requests_waiting", "Requests in the queue.", lambda: engine.counts[1])
        gauge("kv_cache_usage_perc", "The used share of the caches, 1 for all.", lambda: engine.used)
        self._read = Counter("vllm:prompt_tokens", "Tokens of prompts.", label, registry=registry)
        cached = "Tokens of prompts that were known from earlier ones."
        self._cached = Counter("vllm:prefix_cache_hits", cached, label, registry=registry)
        self._asked = Counter(
            "vllm:prefix_cache_queries", "Tokens of prompts, cached or not.", label, registry=registry
        )
        self._made = Counter("vllm:generation_tokens", "New tokens.", label, registry=registry)
        ends = [*label, "finished_reason"]
        self._ended = Counter("vllm:request_success", "Requests that ended.", ends, registry=registry)
        histogram = lambda name, about: Histogram(f"vllm:{name}", about, label, buckets=_SECONDS, registry=registry)
        self._first = histogram("time_to_first_token_seconds", "From the request to its first token.")
        self._between = histogram("inter_token_latency_seconds", "Between two tokens.")
        self._whole = histogram("e2e_request_latency_seconds", "From the request to its end.")

    def text(self) -> bytes:
        """Returns all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def clock(self, model: str) -> "Clock":
        """Returns a clock that starts now."""
        return Clock(self, model)


class Clock:
    """Measures one request."""

    def __init__(self, telemetry: Telemetry, model: str):
        self._telemetry, self._model = telemetry, model
        self._start = self._last = time.perf_counter()
        self._any = False

    def token(self) -> None:
        """Notes that tokens have come."""
        now = time.perf_counter()
        histogram = self._telemetry._between if self._any else self._telemetry._first
        histogram.labels(self._model).observe(now - self._last)
        self._any, self._last = True, now

    def end(self, reasons: list[str], usage: dict[str, Any]) -> None:
        """Notes the end of a request, with the reason of each of its answers."""
        found = self._telemetry
        found._whole.labels(self._model).observe(time.perf_counter() - self._start)
        found._read.labels(self._model).inc(usage["prompt_tokens"])
        found._asked.labels(self._model).inc(usage["prompt_tokens"])
        found._cached.labels(self._model).inc(usage["prompt_tokens_details"]["cached_tokens"])
        found._made.labels(self._model).inc(usage["completion_tokens"])
        for reason in reasons:
            found._ended.labels(self._model, reason).inc()


def log(**fields: Any) -> None:
    """Writes a line of JSON to stderr."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
    print(json.dumps({"time": moment, **fields}, ensure_ascii=False), file=sys.stderr, flush=True)
