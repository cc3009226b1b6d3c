"""Metrics as one log line every few seconds, for a person who watches a terminal.

It keeps a sliding window and nothing older; use Prometheus to look back.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence

from agentlightning._internal.clock import monotonic
from agentlightning.utils.metrics.base import (
    LabelDict,
    MetricKind,
    MetricRegistry,
    MetricsBackend,
    MetricSpec,
)

logger = logging.getLogger(__name__)

_MAX_SAMPLES = 10_000
_PERCENTILES = (0.5, 0.95, 0.99)

GroupKey = tuple[str, tuple[str, ...]]


class ConsoleMetricsBackend(MetricsBackend):
    """Logs the rates of counters and the p50, p95 and p99 of histograms over a sliding window.

    The line is written by whichever write comes first after `log_interval_seconds`; there is no
    thread. Safe to use from several threads and event loops.

    Args:
        window_seconds: Length of the window; None keeps everything, up to the last 10,000 writes
            of each group.
        log_interval_seconds: Least time between two lines.
        group_level: How many labels to keep apart, for every metric; None leaves it to each
            metric's registration.
    """

    def __init__(
        self,
        window_seconds: float | None = 60.0,
        log_interval_seconds: float = 10.0,
        group_level: int | None = None,
    ) -> None:
        self.window_seconds = window_seconds
        self.log_interval_seconds = log_interval_seconds
        self.group_level = group_level
        self._registry = MetricRegistry()
        self._lock = threading.Lock()
        self._samples: dict[GroupKey, deque[tuple[float, float]]] = {}
        self._last_line = monotonic()

    def register_counter(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        group_level: int | None = None,
    ) -> None:
        self._registry.register(
            MetricSpec(
                kind="counter",
                name=name,
                label_names=tuple(label_names or ()),
                group_level=group_level,
            )
        )

    def register_histogram(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        buckets: Sequence[float] | None = None,
        group_level: int | None = None,
    ) -> None:
        self._registry.register(
            MetricSpec(
                kind="histogram",
                name=name,
                label_names=tuple(label_names or ()),
                buckets=tuple(buckets) if buckets is not None else None,
                group_level=group_level,
            )
        )

    async def inc_counter(
        self, name: str, amount: float = 1.0, labels: LabelDict | None = None
    ) -> None:
        self._write("counter", name, amount, labels)

    async def observe_histogram(
        self, name: str, value: float, labels: LabelDict | None = None
    ) -> None:
        self._write("histogram", name, value, labels)

    def _write(self, kind: MetricKind, name: str, value: float, labels: LabelDict | None) -> None:
        spec = self._registry.get(kind, name)
        values = spec.label_values(labels)
        level = self.group_level if self.group_level is not None else spec.group_level
        key = (name, values[: level or 0])
        now = monotonic()
        line: str | None = None
        with self._lock:
            samples = self._samples.setdefault(key, deque(maxlen=_MAX_SAMPLES))
            samples.append((now, value))
            if now - self._last_line >= self.log_interval_seconds:
                self._last_line = now
                line = "  ".join(self._summaries(now))
        if line:
            logger.info("%s", line)

    def _summaries(self, now: float) -> Iterator[str]:
        """Yield one `name{labels}=value` for each group that has samples; holds the lock."""
        for key in sorted(self._samples):
            samples = self._samples[key]
            self._forget_old(samples, now)
            if not samples:
                del self._samples[key]
                continue
            spec = self._registry.find(key[0])
            pairs = ",".join(f"{n}={v}" for n, v in zip(spec.label_names, key[1], strict=False))
            labels = f"{{{pairs}}}" if pairs else ""
            summary = _rate(samples, now) if spec.kind == "counter" else _percentiles(samples)
            yield f"{key[0]}{labels}={summary}"

    def _forget_old(self, samples: deque[tuple[float, float]], now: float) -> None:
        if self.window_seconds is None:
            return
        while samples and samples[0][0] < now - self.window_seconds:
            samples.popleft()


def _rate(samples: deque[tuple[float, float]], now: float) -> str:
    """Return the amount per second since the oldest sample that is kept."""
    # A first sample has no age yet: a millisecond keeps its rate finite.
    seconds = max(now - samples[0][0], 1e-3)
    return f"{sum(value for _, value in samples) / seconds:.2f}/s"


def _percentiles(samples: deque[tuple[float, float]]) -> str:
    """Return p50, p95 and p99 of durations in seconds, interpolated between samples."""
    ordered = sorted(value for _, value in samples)
    return ",".join(_duration(_quantile(ordered, share)) for share in _PERCENTILES)


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    lower = int(position)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (position - lower)


def _duration(seconds: float) -> str:
    """Return a duration with the unit that a person would choose."""
    if seconds >= 1.0:
        return f"{seconds:.2f}s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.2f}ms"
    return f"{seconds * 1e6:.2f}us"
