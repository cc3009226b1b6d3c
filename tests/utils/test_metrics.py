"""Counters and histograms: registration, the console line, Prometheus, and fan-out."""

import asyncio
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import ConfigurationError
from agentlightning.utils.metrics import (
    ConsoleMetricsBackend,
    MetricsBackend,
    MultiMetricsBackend,
    PrometheusMetricsBackend,
    get_prometheus_registry,
)
from agentlightning.utils.metrics.console import _quantile


@pytest.fixture(params=["console", "prometheus", "multi"])
def backend(request: pytest.FixtureRequest) -> MetricsBackend:
    if request.param == "console":
        return ConsoleMetricsBackend()
    if request.param == "prometheus":
        return PrometheusMetricsBackend()
    return MultiMetricsBackend([ConsoleMetricsBackend(), PrometheusMetricsBackend()])


async def test_unknown_metric_is_refused(backend: MetricsBackend):
    """A write to a metric that nobody registered raises."""
    with pytest.raises(ValueError, match="not registered"):
        await backend.inc_counter("test.unknown")
    with pytest.raises(ValueError, match="not registered"):
        await backend.observe_histogram("test.unknown", 1.0)


async def test_missing_label_is_refused_and_extra_label_is_ignored(backend: MetricsBackend):
    """A write must carry every registered label and may carry others."""
    backend.register_counter("test.labels", ["x", "y"])
    with pytest.raises(ValueError, match="'y'"):
        await backend.inc_counter("test.labels", labels={"x": "1"})
    await backend.inc_counter("test.labels", labels={"x": "1", "y": "2", "z": "3"})


def test_registration_is_idempotent_but_not_changeable(backend: MetricsBackend):
    """The same registration may come twice; other labels, kind or buckets raise."""
    backend.register_histogram("test.again", ["x"], [1.0, 2.0])
    backend.register_histogram("test.again", ["x"], [1.0, 2.0])
    with pytest.raises(ConfigurationError):
        backend.register_histogram("test.again", ["y"], [1.0, 2.0])
    with pytest.raises(ConfigurationError):
        backend.register_histogram("test.again", ["x"], [1.0])
    with pytest.raises(ConfigurationError):
        backend.register_counter("test.again", ["x"])


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_console_merges_labels_beyond_the_group_level(caplog: pytest.LogCaptureFixture):
    """Only the first `group_level` labels are kept apart, and the back end's level wins."""
    caplog.set_level(logging.INFO)
    for level, expected in ((None, "a{x=1}=3.00s,3.00s,3.00s"), (0, "a=3.00s,3.00s,3.00s")):
        backend = ConsoleMetricsBackend(log_interval_seconds=0.0, group_level=level)
        backend.register_histogram("a", ["x", "y"], group_level=1)
        for y in ("1", "2"):
            await backend.observe_histogram("a", 3.0, {"x": "1", "y": y})
        assert lines(caplog)[-1] == expected


async def test_console_line_holds_every_metric(caplog: pytest.LogCaptureFixture):
    """One line has the rate of counters and three percentiles of histograms."""
    caplog.set_level(logging.INFO)
    backend = ConsoleMetricsBackend(log_interval_seconds=0.0)
    backend.register_counter("count")
    backend.register_histogram("latency")
    await backend.inc_counter("count", 2.0)
    await backend.observe_histogram("latency", 0.002)
    counter, histogram = lines(caplog)[-1].split("  ")
    assert counter.startswith("count=")
    assert counter.endswith("/s")
    assert histogram == "latency=2.00ms,2.00ms,2.00ms"


async def test_console_forgets_what_left_the_window(caplog: pytest.LogCaptureFixture):
    """A group without samples in the window disappears from the line."""
    caplog.set_level(logging.INFO)
    backend = ConsoleMetricsBackend(window_seconds=0.3, log_interval_seconds=0.0)
    backend.register_counter("old")
    backend.register_counter("new")
    await backend.inc_counter("old")
    await asyncio.sleep(0.6)
    await backend.inc_counter("new")
    assert "old" not in lines(caplog)[-1]
    assert "new=" in lines(caplog)[-1]


async def test_console_is_quiet_within_the_interval(caplog: pytest.LogCaptureFixture):
    """Nothing is logged before the interval has passed."""
    caplog.set_level(logging.INFO)
    backend = ConsoleMetricsBackend(log_interval_seconds=3600.0)
    backend.register_counter("count")
    await backend.inc_counter("count")
    assert lines(caplog) == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=1).map(sorted), st.floats(0, 1))
def test_quantiles_are_ordered_and_inside_the_data(ordered: list[float], share: float):
    """A quantile lies between the extremes, and a larger share never gives a smaller one."""
    value = _quantile(ordered, share)
    assert ordered[0] - 1e-6 <= value <= ordered[-1] + 1e-6
    assert _quantile(ordered, 0.0) - 1e-6 <= value <= _quantile(ordered, 1.0) + 1e-6


async def test_prometheus_exports_what_was_written():
    """Dots become underscores, and the values can be scraped."""
    backend = PrometheusMetricsBackend()
    backend.register_counter("test.scrape.total", ["status"])
    backend.register_histogram("test.scrape.latency", buckets=[0.1, 1.0])
    await backend.inc_counter("test.scrape.total", 2.0, {"status": "ok"})
    await backend.observe_histogram("test.scrape.latency", 0.5)
    registry = get_prometheus_registry()
    assert registry.get_sample_value("test_scrape_total", {"status": "ok"}) == 2.0
    assert registry.get_sample_value("test_scrape_latency_bucket", {"le": "0.1"}) == 0.0
    assert registry.get_sample_value("test_scrape_latency_bucket", {"le": "1.0"}) == 1.0


def test_prometheus_names_that_would_collide_are_refused():
    """Two names that export as one raise instead of mixing their values."""
    backend = PrometheusMetricsBackend()
    backend.register_counter("test.clash.a")
    with pytest.raises(ConfigurationError, match="test_clash_a"):
        backend.register_counter("test.clash_a")


async def test_prometheus_backends_of_one_process_share_their_collectors():
    """Two back ends add to the same counter instead of failing on the second."""
    for backend in (PrometheusMetricsBackend(), PrometheusMetricsBackend()):
        backend.register_counter("test.shared.total")
        await backend.inc_counter("test.shared.total")
    assert get_prometheus_registry().get_sample_value("test_shared_total") == 2.0


def test_only_prometheus_says_so():
    """`has_prometheus` is true where a scrape finds something, also behind a fan-out."""
    console = ConsoleMetricsBackend()
    assert not console.has_prometheus()
    assert not MultiMetricsBackend([console]).has_prometheus()
    assert MultiMetricsBackend([console, PrometheusMetricsBackend()]).has_prometheus()
    with pytest.raises(ConfigurationError):
        MultiMetricsBackend([])


MULTIPROCESS = """
import asyncio, os, subprocess, sys
from agentlightning.utils.metrics import *
if len(sys.argv) == 1:
    setup_multiprocess_prometheus()
    subprocess.run([sys.executable, "-c", sys.orig_argv[2], "child"], check=True)
backend = PrometheusMetricsBackend()
backend.register_counter("shared.total")
asyncio.run(backend.inc_counter("shared.total"))
if len(sys.argv) == 1:
    print(get_prometheus_registry().get_sample_value("shared_total"))
    directory = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    shutdown_metrics()
    print(os.path.exists(directory))
"""


def test_prometheus_adds_up_the_processes_of_a_server():
    """Processes that share a directory are scraped as one, and the directory is removed."""
    done = subprocess.run(
        [sys.executable, "-c", MULTIPROCESS],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["2.0", "False"]


def test_sharing_after_the_client_is_imported_is_refused():
    """A set-up that comes too late to work says so."""
    code = (
        "import prometheus_client\n"
        "from agentlightning.utils.metrics import setup_multiprocess_prometheus\n"
        "setup_multiprocess_prometheus()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert "imported already" in done.stderr
