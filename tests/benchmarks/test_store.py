"""The store's benchmark: its arithmetic, and each measure once, small, on our side."""

import sys

from benchmarks.store import ROWS, Measure, Row, better, run, run_all_quickly, table

MEASURE = Measure(name="batches", arguments={"count": 5000})
RATE = Row(title="enqueue", measure=MEASURE, figure="enqueue.per_second")


def figures(rate: float, **more: float) -> dict:
    return {"enqueue": {"per_second": rate, "cpu_us": 3.0, **more}}


def test_best_figures_count():
    """Rates take the maximum, everything else the minimum, and failures do not count."""
    slow, fast = (
        {"a": {"per_second": 1.0, "cpu_us": 9.0}},
        {"a": {"per_second": 2.0, "cpu_us": 5.0}},
    )
    assert better([slow, {"error": "x"}, fast]) == {"a": {"per_second": 2.0, "cpu_us": 5.0}}
    assert better([{"error": "x"}]) == {"error": "x"}


def test_table_compares_with_the_target_or_the_reference():
    """Without a target 0.3.0 is the target; CPU names caller and server; failures say so."""
    found = {
        (id(MEASURE), "0.3.0"): figures(80_000.0),
        (id(MEASURE), "ours"): figures(90_000.0, server_cpu_us=250.0),
    }
    wanted = Row(title="more", measure=MEASURE, figure="enqueue.per_second", target=95_000)
    lacking = Row(title="none", measure=MEASURE, figure="dequeue.per_second", target=1)
    _, *lines = table([RATE, wanted, lacking], found)
    assert lines[0] == [
        "enqueue", "not slower", "80,000/s", "3 µs", "90,000/s", "3 + 250 µs", "reached",
    ]  # fmt: skip
    assert lines[1][1] == "≥ 95,000/s"
    assert [line[-1] for line in lines] == ["reached", "missed", "failed"]


def test_failed_measure_is_a_result():
    """An interpreter that cannot run the driver is reported, not raised."""
    (found,) = run(sys.executable, "ours", ("no-such-measure", {}))
    assert "no-such-measure" in found["error"]


def test_every_measure_runs_on_this_package():
    """Each measure works, and gives every figure that a row of the table asks for."""
    measures = list({id(row.measure): row.measure for row in ROWS}.values())
    found = run_all_quickly({"ours": sys.executable}, measures)
    assert [f["error"] for f in found.values() if "error" in f] == []
    assert [line[0] for line in table(ROWS, found) if line[-1] == "failed"] == []
