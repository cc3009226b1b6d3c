"""What templates write behind an answer."""

from typing import Any

import pytest

from agentlightning.engine.history.delta import TemplateDelta
from tests.support.chat_tokenizer import end_ids, make_chat_tokenizer

CALL = {"id": "abcdefgh1", "function": {"name": "f", "arguments": {"a": 1}}}
USER: dict[str, Any] = {"role": "user", "content": "q"}
SAID: dict[str, Any] = {"role": "assistant", "content": "A"}
CALLED: dict[str, Any] = {"role": "assistant", "content": "B", "tool_calls": [CALL, CALL]}
RESULT: dict[str, Any] = {"role": "tool", "content": "r"}


def make_delta(template: str, turn_end: str = "") -> TemplateDelta:
    tokenizer = make_chat_tokenizer(template)
    return TemplateDelta(tokenizer, end_ids(tokenizer, template), turn_end=turn_end)


@pytest.mark.parametrize(
    ("template", "answer", "tail"),
    [
        ("stripping", SAID, "<|im_end|>\n<|im_start|>user\n<tool_response>\nr\n</tool_response>"),
        ("stripping", CALLED, "<|im_end|>\n<|im_start|>user\n<tool_response>\nr\n</tool_response>"),
        ("mistral", CALLED, "</s>[INST] r [/INST]"),
        ("glm", CALLED, "<|observation|>\nr<|assistant|>\n"),
        ("bare", CALLED, "\nTool: r\nAssistant:"),
        ("llama", SAID, "<|eot|><|header|>ipython<|/header|>\n\nr<|eot|>"),
    ],
)
def test_the_text_behind_an_answer_is_the_templates(
    template: str, answer: dict[str, Any], tail: str
) -> None:
    """Behind a text or the last of several calls: end of turn, result, next head."""
    found = make_delta(template).text_after([USER, answer, RESULT], 1)
    assert found is not None
    assert found.startswith(tail)


def test_what_the_template_refuses_has_no_end() -> None:
    """Two calls at once are more than this template allows."""
    assert make_delta("llama").text_after([USER, CALLED, RESULT], 1) is None


def test_another_end_token_stands_for_the_end_but_not_for_the_next_head() -> None:
    """Only what ends every turn may be replaced."""
    delta = make_delta("stripping", turn_end="<|im_end|>\n")
    tokenizer = make_chat_tokenizer()
    end, other = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    whole = tokenizer("<|im_end|>\nq")["input_ids"]
    assert delta.ids_after("<|im_end|>\nq", end) == whole[1:]
    assert delta.ids_after("<|im_end|>\nq", other) == whole[1:]
    assert delta.ids_after("<|im_end|>\nq", whole[-1]) == whole
    assert delta.ids_after(" <|im_end|>\nq", end) == whole[1:]
    assert delta.ids_after("\nq", end) == whole[1:]
    user, observation = tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])
    rest = tokenizer("<|user|>\nq")["input_ids"]
    assert make_delta("glm").ids_after("<|user|>\nq", user) == rest[1:]
    assert make_delta("glm").ids_after("<|user|>\nq", observation) == rest


def test_a_tokenizer_that_puts_a_blank_before_words_does_not_do_so_here() -> None:
    """The suffix is encoded as what follows, not as the beginning of a text."""
    from tokenizers import pre_tokenizers

    tokenizer = make_chat_tokenizer("bare")
    metaspace = pre_tokenizers.Metaspace(replacement="Ġ", prepend_scheme="first", split=False)
    tokenizer.backend_tokenizer.pre_tokenizer = metaspace
    delta = TemplateDelta(tokenizer, end_ids(tokenizer, "bare"))
    assert tokenizer.decode(tokenizer("q", add_special_tokens=False)["input_ids"]) == " q"
    assert tokenizer.decode(delta.ids_after("q", 5)) == "q"
