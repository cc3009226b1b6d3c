"""Answers as token ids: what the engine would have sampled, in rows like a rollout's."""

import pytest

from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.algorithm.policy.answer_ids import AnswerWriter
from agentlightning.engine.template import render_prompt
from agentlightning.errors import ConfigurationError
from agentlightning.learning.demonstrations import Demonstration, read_demonstration
from tests.support.tiny_model import CHAT_TEMPLATE, EOS, make_tiny_tokenizer

ASK = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "Ho"}
MORE = {"role": "user", "content": "And?"}
LAST = {"role": "assistant", "content": "Hum"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def writer(template=CHAT_TEMPLATE, **options):
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = template
    return AnswerWriter(tokenizer, frozenset({tokenizer.eos_token_id}), **options), tokenizer


def trained(rows, tokenizer):
    return [
        tokenizer.decode(row.ids[span.start : span.stop].tolist())
        for row in rows
        for span in row.spans
        if span.trained
    ]


def test_a_conversation_is_one_row():
    """Each answer is trained up to its end token, behind the prompt that the engine would make."""
    write, tokenizer = writer()
    (found,) = read_demonstration([ASK, SAID, MORE, LAST])
    calls = write.calls(found, "ro")
    assert calls[0].prompt_token_ids == render_prompt(tokenizer, [ASK])
    assert calls[1].prompt_token_ids == render_prompt(tokenizer, [ASK, SAID, MORE])
    rows, _ = build_token_rows(calls)
    assert trained(rows, tokenizer) == [f"Ho{EOS}", f"Hum{EOS}"]
    (row,) = rows
    assert row.mask.sum() == len(tokenizer(f"Ho{EOS}Hum{EOS}")["input_ids"])


def test_context_answers_are_not_trained():
    """Only the places that count are calls; earlier answers stand in the prompt."""
    write, tokenizer = writer()
    found = Demonstration(messages=(ASK, SAID, MORE, LAST), answers=(3,))
    rows, _ = build_token_rows(write.calls(found, "ro"))
    assert trained(rows, tokenizer) == [f"Hum{EOS}"]


def test_tool_calls_are_answers():
    """A call is learnt as the template writes it, with its end token, before the tool's result."""
    write, tokenizer = writer()
    result = {"role": "tool", "content": "2"}
    found = Demonstration(messages=(ASK, CALL, result, LAST), answers=(1, 3), tools=(TOOL,))
    rows, _ = build_token_rows(write.calls(found, "ro"))
    first, second = trained(rows, tokenizer)
    assert first.startswith("<tool_call>")
    assert '"add"' in first
    assert first.endswith(f"</tool_call>{EOS}")
    assert second == f"Hum{EOS}"
    assert len(rows) == 1


@pytest.mark.parametrize(("remembers", "rows_wanted"), [(True, 1), (False, 2)])
def test_history_is_made_as_agents_history_is(remembers, rows_wanted):
    """A template that drops earlier thoughts makes two rows, unless their tokens are repeated."""
    thought = {"role": "assistant", "content": "<think>x</think>Ho"}
    dropped = CHAT_TEMPLATE.replace(
        "{{ message.content or '' }}",
        "{{ message.content if loop.last else (message.content or '').split('</think>')[-1] }}",
    )
    write, tokenizer = writer(dropped, remembers=remembers)
    (found,) = read_demonstration([ASK, thought, MORE, LAST])
    rows, _ = build_token_rows(write.calls(found, "ro"))
    assert len(rows) == rows_wanted
    assert trained(rows, tokenizer) == [f"<think>x</think>Ho{EOS}", f"Hum{EOS}"]


def test_an_answer_behind_open_reasoning_closes_it():
    """Where the prompt begins to think and templates drop it, the answer holds thought and close."""
    template = CHAT_TEMPLATE.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}"
    )
    write, tokenizer = writer(template)
    found = Demonstration(messages=(ASK, {**SAID, "reasoning_content": "hm"}), answers=(1,))
    (call,) = write.calls(found, "ro")
    said = tokenizer.decode(call.choices[0].token_ids)
    assert said == f"hm\n</think>\n\nHo{EOS}"
    found = Demonstration(messages=(ASK, CALL), answers=(1,), tools=(TOOL,))
    with pytest.raises(ConfigurationError, match="could not have said it"):
        write.calls(found, "ro")


def test_what_the_template_never_ends_gets_an_end_token():
    """Without it the model would never learn to stop."""
    write, tokenizer = writer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                              "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    (found,) = read_demonstration([ASK, SAID])
    (call,) = write.calls(found, "ro")
    assert call.choices[0].token_ids[-1] == tokenizer.eos_token_id


def test_messages_that_cannot_be_rendered_are_refused():
    """Pictures, for instance."""
    write, _ = writer()
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    found = Demonstration(messages=(picture, SAID), answers=(1,))
    with pytest.raises(ConfigurationError, match="other than text"):
        write.calls(found, "ro")
