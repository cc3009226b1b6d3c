"""The benchmark beside 0.3.0: its arithmetic, and each measure once, small, on our side."""

import sys

import pytest

from benchmarks.reference import MEASURES, Measure, better, rows, run

SMALL = {"count": 4}


def test_best_figures_count_but_the_most_failures():
    """Rates take the maximum, times the minimum, failures the maximum."""
    slow = {"rollouts_per_second": 10.0, "wall_seconds": 2.0, "failed": 0}
    fast = {"rollouts_per_second": 20.0, "wall_seconds": 1.0, "failed": 3}
    assert better([slow, fast]) == {"rollouts/s": 20.0, "wall, s": 1.0, "failed rollouts": 3}


def test_cpu_of_a_span_is_the_cpu_of_all_divided_by_their_number():
    """One second of CPU for 100 spans a second over two seconds is 5 ms for each."""
    result = {"add": {"spans_per_second": 100.0, "wall_seconds": 2.0, "cpu_seconds": 1.0}}
    assert {label: value for label, value, _ in rows(result)} == {
        "add: spans/s": 100.0,
        "add: CPU us/span": 5000.0,
    }


def test_failed_measure_is_a_result():
    """An interpreter that cannot run the driver is reported, not raised."""
    measure = Measure(title="x", name="no-such-measure", arguments={})
    assert "no-such-measure" in run(sys.executable, measure)["error"]


@pytest.mark.parametrize("measure", MEASURES, ids=[measure.title for measure in MEASURES])
def test_measure_runs_on_this_package(measure: Measure):
    """Every measure works, and no rollout of it fails."""
    small = Measure(title="", name=measure.name, arguments=measure.arguments | SMALL)
    if measure.name == "latency":
        small.arguments.update(count=1, spread_seconds=0.1)
    result = run(sys.executable, small)
    assert "error" not in result, result["error"]
    assert result.get("failed", 0) == 0
    assert list(rows(result)) != []
