"""Metrics for Prometheus, through its own client library, which is imported on first use.

A process has one Prometheus registry, so every `PrometheusMetricsBackend` in it writes to the
same collectors. Processes of one server share theirs through `PROMETHEUS_MULTIPROC_DIR`.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from agentlightning.errors import ConfigurationError, MissingExtraError
from agentlightning.settings import ensure_prometheus_dir, prometheus_dir
from agentlightning.utils.metrics.base import LabelDict, MetricsBackend, MetricSpec

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram

_lock = threading.Lock()
_collectors: dict[str, tuple[MetricSpec, Counter | Histogram]] = {}
_own_directories: list[str] = []


class PrometheusMetricsBackend(MetricsBackend):
    """Keeps counters and histograms where Prometheus can scrape them.

    Dots in names become underscores. Safe to use from several threads and event loops.

    Raises:
        MissingExtraError: `prometheus-client` is not installed.
    """

    def __init__(self) -> None:
        _require_client()

    def has_prometheus(self) -> bool:
        return True

    def register_counter(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        group_level: int | None = None,
    ) -> None:
        _register(MetricSpec(kind="counter", name=name, label_names=tuple(label_names or ())))

    def register_histogram(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        buckets: Sequence[float] | None = None,
        group_level: int | None = None,
    ) -> None:
        _register(
            MetricSpec(
                kind="histogram",
                name=name,
                label_names=tuple(label_names or ()),
                buckets=tuple(buckets) if buckets is not None else None,
            )
        )

    async def inc_counter(
        self, name: str, amount: float = 1.0, labels: LabelDict | None = None
    ) -> None:
        spec, counter = _find("counter", name)
        values = spec.label_values(labels)
        child: Any = counter.labels(*values) if values else counter
        child.inc(amount)

    async def observe_histogram(
        self, name: str, value: float, labels: LabelDict | None = None
    ) -> None:
        spec, histogram = _find("histogram", name)
        values = spec.label_values(labels)
        child: Any = histogram.labels(*values) if values else histogram
        child.observe(value)


def get_prometheus_registry() -> CollectorRegistry:
    """Return what a scrape should read: all processes' figures, or only this one's.

    All processes' figures are read when `PROMETHEUS_MULTIPROC_DIR` is set.

    Raises:
        MissingExtraError: `prometheus-client` is not installed.
    """
    _require_client()
    from prometheus_client import REGISTRY, CollectorRegistry, multiprocess

    if prometheus_dir() is None:
        return REGISTRY
    registry = CollectorRegistry()
    collect: Any = multiprocess.MultiProcessCollector
    collect(registry)
    return registry


def setup_multiprocess_prometheus() -> None:
    """Prepare the directory through which this process and its children share figures.

    Uses `PROMETHEUS_MULTIPROC_DIR` when it is set, else makes a temporary directory and sets it.
    Call it before anything imports `prometheus_client`, and `shutdown_metrics` at the end.

    Raises:
        ConfigurationError: `prometheus_client` was imported before, when the variable was unset;
            it decides at import whether to share.
    """
    if prometheus_dir() is None:
        if "prometheus_client" in sys.modules:
            raise ConfigurationError(
                "prometheus_client is imported already and will not share figures: call "
                "setup_multiprocess_prometheus earlier, or set PROMETHEUS_MULTIPROC_DIR."
            )
        _own_directories.append(ensure_prometheus_dir())
    else:
        ensure_prometheus_dir()


def shutdown_metrics(server: Any = None, worker: Any = None, *args: Any, **kwargs: Any) -> None:
    """Tidy up after one worker, or after this process when `worker` is None.

    The signature is that of gunicorn's `child_exit` hook. The directory is removed only by the
    process that `setup_multiprocess_prometheus` made it for.
    """
    del server, args, kwargs  # gunicorn passes them; nothing here depends on them.
    if worker is not None and prometheus_dir() is not None:
        _require_client()
        from prometheus_client import multiprocess

        mark_dead: Any = multiprocess.mark_process_dead
        mark_dead(worker.pid)
    if worker is None:
        while _own_directories:
            shutil.rmtree(_own_directories.pop(), ignore_errors=True)


def _require_client() -> None:
    if find_spec("prometheus_client") is None:
        raise MissingExtraError("prometheus-client", "prometheus")


def _find(kind: str, name: str) -> tuple[MetricSpec, Counter | Histogram]:
    entry = _collectors.get(_exported_name(name))
    if entry is None or entry[0].kind != kind or entry[0].name != name:
        raise ConfigurationError(
            f"The {kind} {name!r} is not registered: call register_{kind} first."
        )
    return entry


def _exported_name(name: str) -> str:
    return name.replace(".", "_")


def _register(spec: MetricSpec) -> None:
    exported = _exported_name(spec.name)
    with _lock:
        known = _collectors.get(exported)
        if known is None:
            _collectors[exported] = (spec, _make_collector(exported, spec))
        elif known[0] != spec:
            raise ConfigurationError(
                f"{spec.name!r} would be exported as {exported!r}, which is taken by the "
                f"{known[0].kind} {known[0].name!r} with labels {list(known[0].label_names)} and "
                f"buckets {known[0].buckets}: use another name."
            )


def _make_collector(exported: str, spec: MetricSpec) -> Counter | Histogram:
    from prometheus_client import Counter, Histogram

    if spec.kind == "counter":
        return Counter(exported, spec.name, spec.label_names)
    if spec.buckets is None:
        return Histogram(exported, spec.name, spec.label_names)
    return Histogram(exported, spec.name, spec.label_names, buckets=spec.buckets)
