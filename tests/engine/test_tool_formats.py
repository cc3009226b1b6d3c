"""Values between tags, typed by the tools' schemas."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.engine.tool_formats.tagged import Glm, QwenXml
from agentlightning.engine.tool_formats.typed_arguments import typed_arguments


def offered(schema: Any) -> list[dict[str, Any]]:
    parameters = {"type": "object", "properties": {"x": schema}}
    return [
        {"type": "function", "function": {"name": "other"}},
        {"type": "function", "function": {"name": "f", "parameters": parameters}},
    ]


def typed(text: str, schema: Any) -> Any:
    return json.loads(typed_arguments("f", [("x", text)], offered(schema)))["x"]


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("1", {"type": "string"}, "1"),
        (" {} ", {"type": "string"}, " {} "),
        ("1", {"type": "integer"}, 1),
        ("1.5", {"type": "integer"}, "1.5"),
        ("1e3", {"type": "number"}, 1000.0),
        ("NaN", {"type": "number"}, "NaN"),
        ("1e999", {"type": "number"}, "1e999"),
        ("True", {"type": "boolean"}, True),
        ("false", {"type": "boolean"}, False),
        ("1", {"type": "boolean"}, "1"),
        ("true", {"type": "integer"}, "true"),
        ("None", {"type": ["string", "null"]}, None),
        ("null", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ("4", {"anyOf": [{"type": "integer"}, {"type": "string"}]}, 4),
        ("four", {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "four"),
        ("null", {"type": "integer"}, "null"),
        ('\n[1, {"a": "\\ud800"}]\n', {"type": "array"}, [1, {"a": "\ud800"}]),
        ("{'a': 1}", {"type": "object"}, "{'a': 1}"),
        ("[" * 20_000, {"type": "array"}, "[" * 20_000),
        ("1", {"enum": ["1", "2"]}, "1"),
        ("1", {"$ref": "#/x"}, 1),
        ("one", {}, "one"),
        ('"one"', {}, '"one"'),
        ("7", None, 7),
        ("7", "odd", 7),
    ],
)
def test_schemas_type_values(text: str, schema: Any, value: Any) -> None:
    """A value is of a type that its schema allows, or the text as it stands."""
    assert typed(text, schema) == value
    assert type(typed(text, schema)) is type(value)


def test_arguments_stay_encodable() -> None:
    """Escapes in a model's JSON stay escapes, so that the answer can be written as UTF-8."""
    arguments = typed_arguments("f", [("x", '["\\ud800"]'), ("é", "ü")], offered({}))
    assert arguments.encode()
    assert arguments == '{"x": ["\\ud800"], "é": "ü"}'


@pytest.mark.parametrize(
    "tools", [[], [{"type": "function"}], [{"function": {"name": "f", "parameters": 3}}]]
)
def test_unknown_schemas_let_json_be_json(tools: Any) -> None:
    """Without a schema what reads as JSON is JSON."""
    told = typed_arguments("f", [("a", "[1]"), ("b", "x"), ("a", "2")], tools)
    assert json.loads(told) == {"a": 2, "b": "x"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
TYPES = {
    dict: "object",
    list: "array",
    bool: "boolean",
    int: "integer",
    str: "string",
    type(None): "null",
}


@given(st.dictionaries(st.text("abc_", min_size=1, max_size=3), JSON, max_size=3), st.booleans())
def test_what_templates_write_is_read_again(arguments: dict[str, Any], is_glm: bool) -> None:
    """Strings as they are, all else as JSON: the call comes back equal, given its schema."""

    def written(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    if is_glm:
        pairs = (
            f"<arg_key>{key}</arg_key>\n<arg_value>{written(value)}</arg_value>\n"
            for key, value in arguments.items()
        )
        text = f"<tool_call>f\n{''.join(pairs)}</tool_call>"
    else:
        pairs = (
            f"<parameter={key}>\n{written(value)}\n</parameter>\n"
            for key, value in arguments.items()
        )
        text = f"<tool_call>\n<function=f>\n{''.join(pairs)}</function>\n</tool_call>"
    properties = {key: {"type": TYPES[type(value)]} for key, value in arguments.items()}
    tools = [{"function": {"name": "f", "parameters": {"properties": properties}}}]
    parsed = (Glm() if is_glm else QwenXml()).parse(text, tools)
    assert parsed is not None
    assert json.loads(parsed.calls[0].arguments) == arguments


CODE = "if a < b:\n    print('</parameter> <function=g>')\n</arg_value>\n\n"


def test_values_may_hold_tags() -> None:
    """A value ends where only the format can go on, so code that speaks of tags arrives whole."""
    tools = offered({"type": "string"})
    text = (
        f"<tool_call>\n<function=f>\n<parameter=x>\n{CODE}\n</parameter>\n</function>\n</tool_call>"
    )
    parsed = QwenXml().parse(text, tools)
    assert parsed is not None
    assert json.loads(parsed.calls[0].arguments) == {"x": CODE}
    text = f"<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>{CODE}</arg_value>\n</tool_call>"
    parsed = Glm().parse(text, tools)
    assert parsed is not None
    assert json.loads(parsed.calls[0].arguments) == {"x": CODE}
