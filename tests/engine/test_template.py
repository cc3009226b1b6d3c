"""Rendering conversations."""

import pytest

from agentlightning.engine.template import render_prompt
from agentlightning.errors import ConfigurationError, RequestError
from tests.support.tiny_model import make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer()
HEAD = "<|im_start|>assistant\n"


def text(messages: list[dict[str, object]], **options: object) -> str:
    return TOKENIZER.decode(render_prompt(TOKENIZER, messages, **options))


def test_text_parts_and_null_content_become_text() -> None:
    """Content may be a string, a list of text parts or null."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert text([{"role": "user", "content": parts}]) == f"<|im_start|>user\nab<|im_end|>\n{HEAD}"
    assert text([{"role": "user", "content": None}]) == f"<|im_start|>user\n<|im_end|>\n{HEAD}"


def test_tool_calls_are_rendered_as_objects() -> None:
    """Arguments that clients send as a JSON string are written as the object they are."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    rendered = text([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert '{"name": "f", "arguments": {"x": 1}}' in rendered
    call["function"] = {"name": "f", "arguments": "broken"}
    assert '"arguments": "broken"' in text([{"role": "assistant", "tool_calls": [call]}])


def test_templates_that_join_arguments_to_text_get_text() -> None:
    """Where a template cannot write objects, arguments are JSON."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% for call in m.tool_calls %}"
        "{{ call.function.name + ' ' + call.function.arguments }};{% endfor %}{% endfor %}"
    )
    calls = [{"function": {"name": "f", "arguments": text}} for text in ('{"x":  1}', "broken")]
    messages = [{"role": "assistant", "content": "", "tool_calls": calls}]
    assert tokenizer.decode(render_prompt(tokenizer, messages)) == 'f {"x": 1};f broken;'
    tokenizer.chat_template = "{{ messages + 'x' }}"
    with pytest.raises(RequestError, match="refuses"):
        render_prompt(tokenizer, messages)


def test_tools_are_rendered() -> None:
    """Tools reach the template."""
    assert '{"name": "f"}' in text([{"role": "user", "content": "x"}], tools=[{"name": "f"}])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
        {"role": "user", "content": 3},
        {"role": "assistant", "tool_calls": [{"function": {}}]},
        {"role": "assistant", "tool_calls": ["x"]},
    ],
)
def test_what_a_text_model_cannot_read_is_refused(message: dict[str, object]) -> None:
    """Images and malformed calls are the client's mistake."""
    with pytest.raises(RequestError):
        render_prompt(TOKENIZER, [message])


def test_a_template_that_refuses_is_the_clients_mistake() -> None:
    """An exception raised by the template becomes a 400 with its words."""
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RequestError, match="roles must alternate"):
        render_prompt(tokenizer, [{"role": "user", "content": "x"}])
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="chat template"):
        render_prompt(tokenizer, [{"role": "user", "content": "x"}])
