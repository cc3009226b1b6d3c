"""Counters and histograms: one narrow interface, a console and a Prometheus back end."""

from agentlightning.utils.metrics.base import (
    LabelDict,
    MetricKind,
    MetricRegistry,
    MetricsBackend,
    MetricSpec,
    MultiMetricsBackend,
)
from agentlightning.utils.metrics.console import ConsoleMetricsBackend
from agentlightning.utils.metrics.prometheus import (
    PrometheusMetricsBackend,
    get_prometheus_registry,
    setup_multiprocess_prometheus,
    shutdown_metrics,
)

__all__ = [
    "ConsoleMetricsBackend",
    "LabelDict",
    "MetricKind",
    "MetricRegistry",
    "MetricSpec",
    "MetricsBackend",
    "MultiMetricsBackend",
    "PrometheusMetricsBackend",
    "get_prometheus_registry",
    "setup_multiprocess_prometheus",
    "shutdown_metrics",
]
