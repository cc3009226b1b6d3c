"""The terminal view, on a terminal and on none."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agentlightning.progress import FanOut, RunInfo, Sample, StepReport, TerminalSink
from agentlightning.progress.terminal import sparkline

INFO = RunInfo(
    algorithm="GRPO", model="tiny", run_dir="runs/x", first_step=0, total_steps=2, config={}
)


def play(sink):
    """Tell a sink the story of a short fit."""
    sink.phase("loading")
    sink.started(INFO)
    sink.evaluated(0, 0.25, 32, 3.0)
    sink.phase("sampling", 3, 32)
    sink.stepped(
        StepReport(
            step=1,
            reward=0.5,
            metrics={"speed/rollouts_per_second": 3.5, "speed/tokens_per_second": 250.0},
            best=Sample(task="What is 2 plus 2?", answer="Answer: 4", reward=1.0),
            worst=Sample(task="What is [bold]3[/bold]?", answer="no\nidea", reward=0.0),
        )
    )
    sink.warned("too few mixed groups")
    sink.warned("too few mixed groups")
    sink.ended(interrupted=False, next_steps=["The run lies in runs/x"])


def shown(*, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    play(FanOut([TerminalSink(console)]))
    return console.file.getvalue()


def test_plain_output_is_one_line_a_step():
    """Without a terminal each fact is one line, and a repeated warning is said once."""
    text = shown(terminal=False)
    assert "evaluation after step 0: reward 0.250 on 32 held-out tasks" in text
    assert "step   1/2  reward 0.500" in text
    assert "3.5 rollouts/s  250 tokens/s" in text
    assert text.count("too few mixed groups") == 1
    assert text.rstrip().endswith("The run lies in runs/x")
    assert "\x1b" not in text


def test_the_live_view_shows_best_and_worst():
    """On a terminal the panel holds curve, speed, time left and the two samples, unparsed."""
    text = shown(terminal=True)
    for part in ("What is 2 plus 2? → Answer: 4", "[bold]3[/bold]", "no⏎idea", "left", "now"):
        assert part in text


@given(st.lists(st.floats(-5, 5), max_size=60))
def test_sparklines_take_any_numbers(values):
    """A sparkline has one bar per value, the last forty at most."""
    assert len(sparkline(values)) == min(40, len(values))
