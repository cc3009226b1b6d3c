"""What a template does to histories, found out by trying."""

import json

import pytest

from agentlightning.engine.history.examine import TemplateReport, examine_template
from agentlightning.engine.history.splicer import HistorySplicer
from tests.support.chat_tokenizer import TEMPLATES, end_ids, ids_of, make_chat_tokenizer
from tests.support.tiny_model import make_tiny_tokenizer

REASONING = ("reasoning", "tools with reasoning")
ALL = ("plain", "system", "reasoning", "tools", "tools with reasoning")


def examine(template: str) -> TemplateReport:
    tokenizer = make_chat_tokenizer(template)
    return examine_template(tokenizer, end_ids(tokenizer, template))


@pytest.mark.parametrize(
    ("template", "head", "turn_end", "departing"),
    [
        ("stripping", "<|im_start|>assistant\n", "<|im_end|>\n", REASONING),
        ("headed", "<|im_start|>assistant\n<think>\n", "<|im_end|>\n", ALL),
        ("llama", "<|header|>assistant<|/header|>\n\n", "<|eot|>", ()),
        ("glm", "<|assistant|>\n", "", ()),
        ("mistral", "", "</s>", ("plain", "reasoning", "tools", "tools with reasoning")),
        ("bare", "Assistant:", "\n", ALL),
    ],
)
def test_templates_of_every_family_are_understood(
    template: str, head: str, turn_end: str, departing: tuple[str, ...]
) -> None:
    """Heads, ends and departures are found, and every family can be spliced."""
    report = examine(template)
    assert (report.generation_head, report.turn_end) == (head, turn_end)
    assert report.departing == departing
    assert report.append_safe == (not departing)
    assert report.can_splice
    assert report.dated == (template == "headed")


def test_a_last_answer_may_end_otherwise_than_earlier_ones() -> None:
    """What stands behind earlier answers is the end of a turn, though no model samples it."""
    end = "{{ '<|im_end|>' if loop.last and m.role == 'assistant' else '<|eot|>' }}"
    template = "{% for m in messages %}<|user|>{{ m.content }}" + end + "{% endfor %}"
    tokenizer = make_chat_tokenizer(template + "{% if add_generation_prompt %}<|user|>{% endif %}")
    splicer = HistorySplicer(tokenizer, end_ids=end_ids(tokenizer))
    report = splicer.template
    assert (report.turn_end, report.generation_head) == ("<|eot|>", "<|user|>")
    user = {"role": "user", "content": "q"}
    said = {"role": "assistant", "content": "A"}
    plan = splicer.plan("c", [user])
    splicer.remember(plan, said, ids_of(tokenizer, "A", "<|im_end|>"))
    then = splicer.plan("c", [user, said, user])
    assert tokenizer.decode(then.ids[then.kept :]) == "<|user|>q<|eot|><|user|>"


def test_a_departure_is_shown_with_both_sides() -> None:
    """The report holds the place and what stands there."""
    check = next(c for c in examine("stripping").checks if c.conversation == "reasoning")
    assert check.expected.startswith("<think>\nLet me see.")
    assert check.got.startswith("Warm.<|im_end|>")
    assert check.position == len(
        "<|im_start|>user\nHow warm is it?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_conversations_that_a_template_refuses_do_not_count() -> None:
    """A template without system messages is not worse for it."""
    report = examine("mistral")
    refused = [check.conversation for check in report.checks if not check.supported]
    assert refused == ["system"]
    assert "system" not in report.departing


def test_hidden_and_repeated_answers_cannot_be_spliced() -> None:
    """A template that drops answers, or writes them twice, is found out."""
    for shown in ("", "{{ m.content }}{{ m.content }}"):
        turn = "{% if m.role == 'assistant' %}" + shown + "{% else %}{{ m.content }}{% endif %}"
        report = examine("{% for m in messages %}" + turn + "{% endfor %}")
        assert not report.can_splice
        assert set(report.unspliceable) == set(ALL)


def test_no_template_is_reported_as_such() -> None:
    """A base model's tokenizer can be examined, too; and reports are JSON."""
    tokenizer = make_chat_tokenizer()
    tokenizer.chat_template = None
    report = examine_template(tokenizer, frozenset())
    assert not (report.has_template or report.append_safe or report.can_splice)
    assert json.loads(json.dumps(examine("stripping").to_dict()))["can_splice"] is True


def test_the_tiny_models_template_is_append_safe() -> None:
    """Other tests rely on it."""
    tokenizer = make_tiny_tokenizer()
    report = examine_template(tokenizer, frozenset({tokenizer.eos_token_id}))
    assert report.append_safe
    assert report.can_splice


def test_every_template_is_tried() -> None:
    """The families above are those of the tests' tokenizer."""
    assert set(TEMPLATES) == {"stripping", "headed", "llama", "glm", "mistral", "bare"}
