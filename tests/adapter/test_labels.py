"""Agents are recognised as each agent library names them."""

import pytest

from agentlightning.adapter.labels import agent_label
from tests.support.spans import make_span


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        ("x", {"agent.name": "a", "executor.id": "b"}, "a"),
        ("x", {"agentops.span.kind": "agent", "operation.name": "a"}, "a"),
        ("x", {"agentops.span.kind": "tool", "operation.name": "a"}, None),
        ("x", {"recipient_agent_type": "a"}, "a"),
        ("x", {"langchain.chain.type": "a"}, "a"),
        ("x", {"executor.id": "a"}, "a"),
        ("x", {"type": "agent", "agentlightning.operation.input.name": "a"}, "a"),
        ("x", {"agentlightning.operation.input.name": "a"}, None),
        ("langchain.Chain.run", {"lc_name": "a"}, "a"),
        ("other", {"lc_name": "a"}, None),
        ("x", {"agent.name": ""}, None),
        ("x", {"gen_ai.agent.name": "a"}, "a"),
        ("x", {"openinference.span.kind": "AGENT"}, "x"),
        ("x", {"openinference.span.kind": "AGENT", "graph.node.id": "a"}, "a"),
        ("x", {"openinference.span.kind": "LLM", "graph.node.id": "a"}, None),
        ("x", {"traceloop.span.kind": "agent", "traceloop.entity.name": "a"}, "a"),
        ("model", {"metadata": '{"lc_agent_name": "a", "langgraph_node": "model"}'}, "a"),
        (
            "model",
            {"metadata": '{"langgraph_node": "m", "langgraph_checkpoint_ns": "a:1|m:2"}'},
            "a",
        ),
        ("x", {"metadata": '{"langgraph_node": "a"}'}, "a"),
        ("x", {"metadata": '{"ls_integration": "langgraph"}'}, None),
        ("x", {"metadata": '{"langgraph_node": '}, None),
    ],
)
def test_label(name, attributes, expected):
    """The first convention that applies gives the label."""
    span = make_span("a", name=name)
    span.attributes = attributes
    assert agent_label(span) == expected
