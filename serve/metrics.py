"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from dgemma.runtime.result import Result

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_TURNS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55)


class Metrics:
    """A registry of its own, so that two servers in one process count apart."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("dgemma_requests", "Requests by path and status.", ["path", "status"], registry=registry)
        self.request_seconds = Histogram(
            "dgemma_request_seconds", "From a request to the end of its answer.", ["path"], buckets=_SECONDS, registry=registry
        )
        self.first_text = Histogram(
            "dgemma_first_text_seconds", "Until the first text is committed.", ["model"], buckets=_SECONDS, registry=registry
        )
        self.rejected = Counter("dgemma_rejected", "Requests that found no room.", ["reason"], registry=registry)
        self.cancelled = Counter("dgemma_cancelled", "Requests ended early.", ["reason"], registry=registry)
        self._waited = Histogram(
            "dgemma_wait_turns", "Turns of others before a generation began.", ["model"], buckets=_TURNS, registry=registry
        )
        self._waited_s = Histogram(
            "dgemma_wait_seconds", "Waiting for turns, per generation.", ["model"], buckets=_SECONDS, registry=registry
        )
        names = {
            "tokens": "Tokens committed.",
            "steps": "Denoising steps, or calls of decode.",
            "canvases": "Canvases committed.",
            "position_forwards": "Positions put through the stack, prompts aside.",
            "prompt_tokens": "Tokens of prompts.",
            "cached_tokens": "Tokens of prompts that were not encoded again.",
        }
        self._counters = {
            name: Counter(f"dgemma_{name}", text, ["model", "decoder"], registry=registry) for name, text in names.items()
        }

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is read when it is asked for."""
        Gauge(f"dgemma_{name}", text, registry=self._registry).set_function(read)

    def generated(self, model: str, decoder: str, result: Result, prompt: int, cached: int) -> None:
        """A generation has ended."""
        values = {
            "tokens": result.count,
            "steps": result.steps,
            "canvases": result.canvases,
            "position_forwards": result.position_forwards,
            "prompt_tokens": prompt,
            "cached_tokens": cached,
        }
        for name, value in values.items():
            self._counters[name].labels(model, decoder).inc(value)
        self._waited.labels(model).observe(result.behind)
        self._waited_s.labels(model).observe(result.timings.waited_s)

    def text(self) -> bytes:
        return generate_latest(self._registry)
