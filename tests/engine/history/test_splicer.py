"""The splicer on real tokenizers and templates: what it keeps, what it cannot, and why."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.adapter.token_row import ForkCause
from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.engine.answer_format import AnswerOpening
from agentlightning.engine.history.splicer import HistoryCause, HistorySplicer, PromptPlan
from agentlightning.engine.reasoning import ReasoningFilter, Split, detect_reasoning
from agentlightning.engine.template import render_prompt
from agentlightning.errors import ConfigurationError, RequestError
from agentlightning.types.call import CallChoice, CallRecord
from tests.support.chat_tokenizer import TEMPLATES, end_ids, ids_of, make_chat_tokenizer

FIXTURES = sorted(Path(__file__).with_name("fixtures").glob("*.json"))
TOKENIZERS = {name: make_chat_tokenizer(name) for name in TEMPLATES}
TOKENIZER = TOKENIZERS["stripping"]
END = "<|im_end|>"
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def make_splicer(template: str = "stripping") -> HistorySplicer:
    tokenizer = TOKENIZERS.get(template) or make_chat_tokenizer(template)
    return HistorySplicer(tokenizer, end_ids=end_ids(tokenizer, template))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str | None, *arguments: str, ids: str = "call") -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if arguments:
        message["tool_calls"] = [
            {"id": f"{ids}{i}", "type": "function", "function": {"name": "add", "arguments": each}}
            for i, each in enumerate(arguments)
        ]
    return message


def answer(
    splicer: HistorySplicer,
    messages: list[dict[str, Any]],
    reply: dict[str, Any],
    *sampled: str,
    conversation: str | None = "c",
    choice: int = 0,
    **asked: Any,
) -> tuple[PromptPlan, list[int]]:
    """Serve a request: plan its prompt, and remember an answer made of these pieces."""
    plan = splicer.plan(conversation, messages, **asked)
    ids = ids_of(TOKENIZER, *(sampled or (reply["content"], END)))
    splicer.remember(plan, reply, ids, choice=choice)
    return plan, ids


@pytest.mark.parametrize("mode", ["exact", "template_mode"])
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_histories_become_the_rows_that_are_written_down(path: Path, mode: str) -> None:
    """Each fixture gives one row when spliced, and its forks when the template renders it."""
    case = json.loads(path.read_text())
    splicer = make_splicer(case["template"])
    calls: list[CallRecord] = []
    kinds: list[str] = []
    for at, call in enumerate(case["calls"]):
        conversation = "c" if mode == "exact" else None
        tools = case.get("tools", [])
        plan = splicer.plan(conversation, call["messages"], tools=tools)
        ids = ids_of(TOKENIZER, *call["sampled"])
        splicer.remember(plan, call["message"], ids)
        kinds.append(plan.kind)
        finish = call.get("finish_reason", "stop")
        choice = CallChoice(message=call["message"], token_ids=ids, finish_reason=finish)
        calls.append(
            CallRecord(
                call_id=str(at),
                rollout_id="r",
                attempt_id="a",
                request={"messages": call["messages"], "tools": tools},
                prompt_token_ids=plan.ids,
                choices=[choice],
                start_time=at,
                end_time=at,
            )
        )
    rows, report = build_token_rows(calls, decode=TOKENIZER.decode)
    expected = case[mode]
    assert [TOKENIZER.decode(row.ids) for row in rows] == expected["rows"]
    assert report.forks == expected["forks"]
    assert report.trained_tokens == sum(len(c.choices[0].token_ids) for c in calls)
    assert kinds == expected.get("prompts", ["first"] * len(calls))


def test_each_agent_and_fork_goes_on_from_its_own_answer() -> None:
    """Sub-agents and forks share a conversation; each prompt continues what it belongs to."""
    splicer = make_splicer()
    main, helper = user("main"), user("help")
    first, one = answer(splicer, [main], said("<think>a</think>A"))
    _, two = answer(splicer, [helper], said("<think>b</think>B"))
    fork, left = answer(splicer, [main, said("A"), user("left")], said("L"))
    other = splicer.plan("c", [main, said("A"), user("right")])
    assert fork.ids[: fork.kept] == other.ids[: other.kept] == [*first.ids, *one]
    third = splicer.plan("c", [helper, said("B"), user("more")])
    assert third.kind == "spliced"
    assert two == third.ids[third.kept - len(two) : third.kept]
    deep = splicer.plan("c", [main, said("A"), user("left"), said("L"), user("on")])
    assert deep.ids[: deep.kept] == [*fork.ids, *left]


def test_every_choice_is_remembered() -> None:
    """With several choices the one that comes back is continued; reasoning and ids tell which."""
    splicer = make_splicer()
    plan = splicer.plan("c", [user("q")])
    choices = [
        (said("<think>1</think>A"), ["<think>1</think>A", END]),
        (said("<think>2</think>A"), ["<think>2</think>A", END]),
        (said("B"), ["B", END]),
        (said(None, '{"a": 1}', ids="x"), ["call x", END]),
        (said(None, '{"a": 1}', ids="y"), ["call y", END]),
    ]
    for index, (message, pieces) in enumerate(choices):
        splicer.remember(plan, message, ids_of(TOKENIZER, *pieces), choice=index)

    def continued(message: dict[str, Any]) -> str:
        found = splicer.plan("c", [user("q"), message, user("more")])
        return TOKENIZER.decode(found.ids[len(plan.ids) : found.kept])

    assert [continued(message) for message, _ in choices] == [
        "".join(pieces) for _, pieces in choices
    ]
    assert continued(said("A")) == "<think>1</think>A" + END
    assert continued(said("", '{"a":1.0}', ids="other")) == "call x" + END
    again = splicer.plan("c", [user("q")])
    assert (again.kind, again.ids) == ("repeated", plan.ids)
    splicer.remember(again, said("A"), ids_of(TOKENIZER, "later", END))
    assert continued(said("A")) == "later" + END


def test_reasoning_told_apart_may_come_back_in_any_way() -> None:
    """In its field, in the text, not at all; another one's is no beginning of ours."""
    splicer = make_splicer()
    sampled = "<think>\nhm\n</think>\n\nso</think>A"
    served = {**said("\n\nso</think>A"), "reasoning_content": "\nhm\n"}
    answer(splicer, [user("q")], served, sampled, END)

    def kind(message: dict[str, Any]) -> str:
        return splicer.plan("c", [user("q"), message, user("more")]).kind

    assert kind(served) == "spliced"
    assert kind({**served, "reasoning_content": None}) == "spliced"
    assert kind(said("A")) == "spliced"
    assert kind({**served, "reasoning_content": "no"}) == "rendered"
    assert kind(said("other</think>A")) == "rendered"


def history() -> list[dict[str, Any]]:
    return [user("q"), said("<think>1</think>A"), user("more")]


@pytest.mark.parametrize(
    ("messages", "asked", "cause"),
    [
        ([user("other"), *history()[1:]], {}, HistoryCause.CONTEXT),
        ([user("q"), said("Changed"), user("more")], {}, HistoryCause.EDITED),
        ([user("q"), said("<think>2</think>A"), user("more")], {}, HistoryCause.EDITED),
        (history(), {"tools": [TOOL]}, HistoryCause.TOOLS),
        (history(), {"template_kwargs": {"enable_thinking": False}}, HistoryCause.TOOLS),
    ],
)
def test_what_cannot_be_kept_is_rendered_and_its_cause_counted(
    messages: list[dict[str, Any]], asked: dict[str, Any], cause: HistoryCause
) -> None:
    """Compaction, edits and other tools give the template's prompt and say why."""
    splicer = make_splicer()
    answer(splicer, [user("q")], said("<think>1</think>A"))
    plan = splicer.plan("c", messages, **asked)
    assert (plan.kind, plan.cause, plan.kept) == ("rendered", cause, 0)
    assert plan.ids == render_prompt(TOKENIZER, messages, **asked)
    assert splicer.stats().causes == {cause: 1}


def test_answers_behind_the_kept_ones_are_rendered_and_counted() -> None:
    """A foreign answer after ours keeps ours exact, and is itself written by the template."""
    splicer = make_splicer()
    first, ids = answer(splicer, [user("q")], said("<think>1</think>A"))
    messages = [*history(), said("<think>x</think>Not ours"), user("end")]
    plan = splicer.plan("c", messages)
    assert (plan.kind, plan.cause) == ("spliced", HistoryCause.CONTEXT)
    assert plan.ids[: plan.kept] == [*first.ids, *ids]
    rest = TOKENIZER.decode(plan.ids[plan.kept :])
    assert rest.startswith("\n<|im_start|>user\nmore" + END)
    assert "Not ours" in rest
    assert "x</think>" not in rest


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_beginning_ends_the_prompt_and_stays_in_the_history(template: str) -> None:
    """First or later, whatever the template: the head, the beginning, and then what was sampled."""
    splicer = make_splicer(template)
    tokenizer = TOKENIZERS[template]
    opening = AnswerOpening('{"name": "add", "arguments":', detect_reasoning("<think>"))
    first = splicer.plan("c", [user("q")], opening=opening)
    closed = "\n</think>\n\n" if template == "headed" else ""
    begun = splicer.template.generation_head + closed + opening.text
    assert tokenizer.decode(first.ids).endswith(begun)
    ids = ids_of(TOKENIZER, ' {"a": 1}}')
    reply = said('{"name": "add", "arguments": {"a": 1}}')
    splicer.remember(first, reply, ids)
    turn = [user("q"), reply, user("more")]
    free, forced = splicer.plan("c", turn), splicer.plan("c", turn, opening=opening)
    for plan in (free, forced):
        assert (plan.kind, plan.cause) == ("spliced", None)
        assert plan.ids[: plan.kept] == [*first.ids, *ids]
    assert tokenizer.decode(forced.ids).startswith(tokenizer.decode(free.ids))
    assert tokenizer.decode(forced.ids).endswith(opening.text)
    other = splicer.plan("c", [user("q"), said("Changed"), user("more")])
    assert other.cause == HistoryCause.EDITED
    alone = splicer.plan(None, [user("q")], opening=opening)
    assert tokenizer.decode(alone.ids).endswith(begun)


def test_nothing_remembered_means_nothing_spliced() -> None:
    """Unknown, forgotten and unnamed conversations are rendered."""
    splicer = make_splicer()
    assert splicer.plan("c", history()).cause == HistoryCause.UNKNOWN
    answer(splicer, [user("q")], said("<think>1</think>A"))
    assert splicer.plan("other", history()).cause == HistoryCause.UNKNOWN
    assert splicer.plan(None, history()).kind == "first"
    assert splicer.plan("c", history()).kind == "spliced"
    splicer.forget("c")
    splicer.forget("c")
    assert splicer.plan("c", history()).cause == HistoryCause.UNKNOWN
    stats = splicer.stats()
    assert (stats.conversations, stats.tokens) == (0, 0)
    assert stats.prompts == {"rendered": 3, "first": 2, "spliced": 1}


def test_a_history_too_long_for_the_model_is_rendered_if_that_fits() -> None:
    """Reasoning that is kept may fill the context; then the template's shorter prompt is used."""
    splicer = make_splicer()
    thought = "<think>" + "long " * 50 + "</think>A"
    answer(splicer, [user("q")], said(thought))
    messages = [user("q"), said(thought), user("more")]
    exact, shorter = splicer.plan("c", messages), render_prompt(TOKENIZER, messages)
    limit = len(shorter)
    plan = splicer.plan("c", messages, max_tokens=limit)
    assert (plan.ids, plan.cause) == (shorter, HistoryCause.LENGTH)
    assert splicer.plan("c", messages, max_tokens=limit - 1).ids == exact.ids


def test_a_head_with_reasoning_a_default_prompt_and_the_time_stay_as_they_were() -> None:
    """What the template wrote for the first turn is repeated, not written again."""
    splicer = make_splicer("headed")
    raw = "Hm.\n</think>\n\nA"
    first, ids = answer(splicer, [user("q")], said(raw))
    assert TOKENIZER.decode(first.ids).endswith("<|im_start|>assistant\n<think>\n")
    plan = splicer.plan("c", [user("q"), said("A"), user("more")])
    assert plan.ids[: plan.kept] == [*first.ids, *ids]
    rest = TOKENIZER.decode(plan.ids[plan.kept :])
    assert rest == f"\n<|im_start|>user\nmore{END}\n<|im_start|>assistant\n<think>\n"
    assert splicer.plan("c", [user("q")]).ids == first.ids


@pytest.mark.parametrize(
    ("template", "sampled", "rest"),
    [
        ("stripping", [END], "\n<|im_start|>user\nmore"),
        ("stripping", ["<|endoftext|>"], "\n<|im_start|>user\nmore"),
        ("stripping", [], END + "\n<|im_start|>user\nmore"),
        ("glm", ["<|user|>"], "\nmore"),
        ("glm", ["<|endoftext|>"], "<|user|>\nmore"),
        ("glm", [], "<|user|>\nmore"),
        ("llama", ["<|eot|>"], "<|header|>user"),
        ("mistral", ["</s>"], "[INST] more"),
        ("mistral", [], "</s>[INST] more"),
        ("bare", ["<|endoftext|>"], "\nUser: more"),
        ("bare", [], "\nUser: more"),
    ],
)
def test_the_end_of_a_turn_is_there_once(template: str, sampled: list[str], rest: str) -> None:
    """A sampled end token stands for the template's; a missing one is added."""
    splicer = make_splicer(template)
    plan, ids = answer(splicer, [user("q")], said("A."), "A.", *sampled)
    then = splicer.plan("c", [user("q"), said("A."), user("more")])
    assert then.ids[: then.kept] == [*plan.ids, *ids]
    assert TOKENIZER.decode(then.ids[then.kept :]).startswith(rest)


def test_a_template_that_hides_answers_is_rendered_and_said_so() -> None:
    """Where no end of an answer can be seen, the whole prompt is the template's."""
    hiding = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'user' %}{{ m.content }}"
    splicer = make_splicer(hiding + "{% endif %}{% endfor %}")
    answer(splicer, [user("q")], said("A"))
    messages = [user("q"), said("A"), user("more")]
    plan = splicer.plan("c", messages)
    assert plan.cause == HistoryCause.TEMPLATE
    assert TOKENIZER.decode(plan.ids) == "[user]q[assistant][user]more"
    assert not splicer.template.can_splice


def test_mistakes_of_the_client_are_refused_as_without_history() -> None:
    """Images, refused roles and a missing template raise what rendering raises."""
    splicer = make_splicer("mistral")
    for messages in [[{"role": "user", "content": [{"type": "image"}]}], [{"role": "system"}]]:
        with pytest.raises(RequestError):
            splicer.plan("c", messages)
    with pytest.raises(ConfigurationError, match="chat template"):
        make_splicer("").plan("c", [user("q")])


# -- a property over conversations and templates ------------------------------------------------

PIECES = ("hav", "ing", "having", " ", ".", "\n", "é", "Yes", "{")
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5)
ENDS = {
    "llama": "<|eot|>",
    "mistral": "</s>",
    "glm": "<|user|>",
    "bare": "<|endoftext|>",
}


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Turns of one conversation: what the user says, what the model samples, how it comes back."""
    return [
        {
            "user": "".join(draw(TEXTS)).strip() or "?",
            "think": draw(st.sampled_from(["", "<think>\nhm\n</think>\n\n"])),
            "apart": draw(st.booleans()),
            "pieces": draw(TEXTS),
            "ended": draw(st.booleans()),
            "calls": draw(st.booleans()),
            "trim": draw(st.booleans()),
            "forget_reasoning": draw(st.booleans()),
        }
        for _ in range(draw(st.integers(2, 4)))
    ]


def reply_of(turn: dict[str, Any], text: str, *calls: str) -> dict[str, Any]:
    """Return an answer as the engine gives it, or as one that does not know reasoning does."""
    think = detect_reasoning("</think>")
    if think is None or not turn["apart"]:
        return said(text, *calls, ids="abcdefgh")
    growing = ReasoningFilter(think, is_open=False)
    parted = Split.join([growing.push(text), growing.end()])
    return {**said(parted.content, *calls, ids="abcdefgh"), "reasoning_content": parted.reasoning}


def echoed(turn: dict[str, Any], reply: dict[str, Any], uses_tools: bool) -> dict[str, Any]:
    """Return an answer as a careless client sends it back."""
    content = reply["content"]
    if turn["forget_reasoning"]:
        content = content.rpartition("</think>")[2]
    if turn["trim"]:
        content = content.strip()
    calls = ['{"a":1,"b":[2]}'] if uses_tools else []
    message = said(content, *calls, ids="abcdefgh")
    if "reasoning_content" in reply and not turn["forget_reasoning"]:
        message["reasoning_content"] = reply["reasoning_content"]
    return message


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(TEMPLATES)), turns())
def test_prompts_continue_what_was_sampled_and_read_as_the_template_writes(
    template: str, plan_of_turns: list[dict[str, Any]]
) -> None:
    """Each prompt begins with the last one and its answer; the rest is the template's own text."""
    tokenizer, splicer = TOKENIZERS[template], make_splicer(template)
    end = ENDS.get(template, END)
    messages: list[dict[str, Any]] = []
    before: list[int] = []
    for turn in plan_of_turns:
        messages.append(user(turn["user"]))
        plan = splicer.plan("c", messages)
        rendered = tokenizer.decode(render_prompt(tokenizer, messages))
        assert plan.ids[: len(before)] == before
        rest = tokenizer.decode(plan.ids[len(before) :])
        if before:
            assert plan.kind == "spliced"
            assert plan.cause is None
            assert rendered.endswith(rest)
            assert turn["user"] in rest
        text = turn["think"] + "".join(turn["pieces"])
        sampled = [turn["think"], *turn["pieces"], *([end] if turn["ended"] else [])]
        ids = ids_of(tokenizer, *sampled)
        uses_tools = turn["calls"] and template != "llama"
        calls = ['{"b": [2.0], "a": 1}'] if uses_tools else []
        reply = reply_of(turn, text, *calls)
        splicer.remember(plan, reply, ids)
        messages.append(echoed(turn, reply, uses_tools))
        before = [*plan.ids, *ids]


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=2, max_size=4), st.lists(TEXTS, min_size=4, max_size=4))
def test_plain_histories_read_exactly_as_the_template_renders_them(
    answers: list[list[str]], questions: list[list[str]]
) -> None:
    """Without reasoning, calls or trimming the spliced text is the rendered one, token ends aside."""
    splicer = make_splicer()
    messages: list[dict[str, Any]] = []
    for pieces, asked in zip(answers, questions, strict=False):
        messages.append(user("".join(asked)))
        plan = splicer.plan("c", messages)
        rendered = TOKENIZER.decode(render_prompt(TOKENIZER, messages))
        assert TOKENIZER.decode(plan.ids) == rendered
        reply = said("".join(pieces))
        splicer.remember(plan, reply, ids_of(TOKENIZER, *pieces, END))
        messages.append(reply)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(TEMPLATES)), turns(), turns(), st.data())
def test_agents_forks_and_choices_never_drift(
    template: str, first: list[dict[str, Any]], second: list[dict[str, Any]], data: st.DataObject
) -> None:
    """However conversations branch and interleave, no sampled token is shown in other tokens."""
    tokenizer, splicer = TOKENIZERS[template], make_splicer(template)
    end = ENDS.get(template, END)
    branches: list[list[dict[str, Any]]] = [[]]
    calls: list[CallRecord] = []
    for at, turn in enumerate([*first, *second]):
        base = data.draw(st.sampled_from(branches))
        messages = [*base, user(turn["user"])]
        plan = splicer.plan("c", messages)
        assert plan.cause is None
        choices: list[CallChoice] = []
        for index in range(data.draw(st.integers(1, 2))):
            pieces = [turn["think"], *turn["pieces"], *(["Yes"] * index)]
            ids = ids_of(tokenizer, *pieces, *([end] if turn["ended"] else []))
            reply = reply_of(turn, "".join(pieces))
            splicer.remember(plan, reply, ids, choice=index)
            choices.append(CallChoice(index=index, token_ids=ids, message=reply))
            branches.append([*messages, echoed(turn, reply, uses_tools=False)])
        calls.append(
            CallRecord(
                call_id=str(at),
                rollout_id="r",
                attempt_id="a",
                prompt_token_ids=plan.ids,
                choices=choices,
                start_time=at,
                end_time=at,
            )
        )
    rows, report = build_token_rows(calls)
    assert report.drift_tokens == 0
    assert set(report.forks) <= {ForkCause.SAMPLE, ForkCause.CONTEXT}
    assert report.trained_tokens == report.sampled_tokens
    assert len(rows) <= report.samples
