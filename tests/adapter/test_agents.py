"""Spans belong to the agents around them."""

from agentlightning.adapter.agents import agents_of
from tests.support.spans import make_span


def test_the_next_label_above_counts():
    """A span takes the nearest agent at or above it; spans inside no agent are absent."""
    spans = [
        make_span("root"),
        make_span("outer", "root", agent__name="planner"),
        make_span("inner", "outer", gen_ai__agent__name="writer"),
        make_span("call", "inner"),
        make_span("tool", "outer"),
        make_span("other", "gone"),
    ]
    assert agents_of(spans) == {
        "outer": "planner",
        "inner": "writer",
        "call": "writer",
        "tool": "planner",
    }


def test_circles_end():
    """Spans that are each other's parents have no agent, and nothing hangs."""
    spans = [make_span("a", "b"), make_span("b", "a"), make_span("x", agent__name="n")]
    assert agents_of(spans) == {"x": "n"}
