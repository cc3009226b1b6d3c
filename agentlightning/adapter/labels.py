"""Which agent a span belongs to, as the different agent libraries say it."""

from collections.abc import Mapping
from typing import Any

from agentlightning.adapter.attribute_values import as_mapping, parsed
from agentlightning.semconv import CallAttributes, LightningSpanAttributes
from agentlightning.types.tracer import Span

__all__ = ["agent_label"]

_OPERATION_NAMES = (LightningSpanAttributes.OPERATION_NAME.value, "operation.name")


def agent_label(span: Span) -> str | None:
    """Return the name of the agent that a span is, or None when it is no agent's.

    In this order: our own and AgentOps' agent name, AgentOps agent operations, AutoGen's
    recipient, LangChain's chain type, the executor of a workflow, Weave agents, LangGraph nodes;
    then OpenTelemetry's GenAI conventions, OpenInference, OpenLLMetry, and LangGraph's metadata.
    """
    attributes = span.attributes
    plain = _text(attributes, CallAttributes.AGENT_NAME.value)
    if plain is not None:
        return plain
    if attributes.get("agentops.span.kind") == "agent":
        for key in reversed(_OPERATION_NAMES):
            if (name := _text(attributes, key)) is not None:
                return name
    for key in ("recipient_agent_type", "langchain.chain.type", "executor.id"):
        if (name := _text(attributes, key)) is not None:
            return name
    if _is_agent(attributes):
        return _text(attributes, f"{LightningSpanAttributes.OPERATION_INPUT.value}.name")
    if span.name.startswith("langchain.Chain."):
        return _text(attributes, "langchain.chain.metadata.lc_name") or _text(attributes, "lc_name")
    return _by_other_conventions(span)


def _by_other_conventions(span: Span) -> str | None:
    attributes = span.attributes
    if (name := _text(attributes, "gen_ai.agent.name")) is not None:
        return name
    if attributes.get("openinference.span.kind") == "AGENT":
        return _text(attributes, "graph.node.id") or span.name
    if attributes.get("traceloop.span.kind") == "agent":
        return _text(attributes, "traceloop.entity.name") or span.name
    return _of_langgraph(_text(attributes, "metadata"))


def _of_langgraph(metadata: str | None) -> str | None:
    """Return the agent that LangChain's run metadata names, or the node of the outermost graph.

    Nodes inside an agent have names of their own, such as `model`, which are nobody's.
    """
    if metadata is None or not ("lc_agent_name" in metadata or "langgraph_node" in metadata):
        return None
    told = as_mapping(parsed(metadata))
    path = _text(told, "langgraph_checkpoint_ns")
    outermost = path.partition("|")[0].partition(":")[0] if path else None
    return _text(told, "lc_agent_name") or outermost or _text(told, "langgraph_node")


def _is_agent(attributes: Mapping[str, Any]) -> bool:
    key = f"{LightningSpanAttributes.OPERATION_INPUT.value}.type"
    return "agent" in (attributes.get("type"), attributes.get(key))


def _text(attributes: Mapping[str, Any], key: str) -> str | None:
    value = attributes.get(key)
    return value if isinstance(value, str) and value else None
