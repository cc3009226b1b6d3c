"""The token tree: fixtures of what agents do to their histories, and what must always hold."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.token_row import ForkCause, MaskCause, TreeReport
from agentlightning.adapter.token_tree import TreeOptions, build_token_rows
from agentlightning.errors import TrainingError
from agentlightning.types.call import CallChoice, CallRecord

EOS = 9
FIXTURES = Path(__file__).with_name("fixtures")


def choice(out, *, index=0, logprobs=None, finish="stop"):
    return CallChoice(
        index=index,
        token_ids=list(out),
        logprobs=[-0.1 * t for t in out] if logprobs is None else logprobs,
        finish_reason=finish,
    )


def call(name, prompt, *outs, at=0.0, **fields):
    choices = [o if isinstance(o, CallChoice) else choice(o, index=i) for i, o in enumerate(outs)]
    return CallRecord(
        call_id=name,
        rollout_id="ro-1",
        attempt_id="at-1",
        prompt_token_ids=list(prompt),
        choices=choices,
        start_time=at,
        end_time=at + 1,
        **fields,
    )


def turns(*names):
    """Calls in the order given, one second apart."""
    return [record.model_copy(update={"end_time": float(i)}) for i, record in enumerate(names)]


def seen(rows):
    """Rows as (ids, trained positions)."""
    return [(row.ids.tolist(), np.flatnonzero(row.mask).tolist()) for row in rows]


def fixtures():
    """The cases of `fixtures/`, each with the rows that it must give."""
    paths = sorted(FIXTURES.glob("f*.json"))
    return [pytest.param(json.loads(path.read_text()), id=path.stem) for path in paths]


def fixture_calls(case):
    """The calls of a case, one second apart."""
    filler = {"rollout_id": "ro-1", "attempt_id": "at-1"}
    for at, said in enumerate(case["calls"]):
        choices = [
            {"index": i, "logprobs": [-0.5] * len(one["token_ids"]), **one}
            for i, one in enumerate(said["choices"])
        ]
        times = {"start_time": at, "end_time": at + 0.5}
        yield CallRecord.model_validate({**filler, **times, **said, "choices": choices})


@pytest.mark.parametrize("case", fixtures())
def test_histories_become_the_rows_that_are_written_down(case):
    """Each fixture's calls give its rows, spans, forks and masks, and nothing else."""
    told = case.get("options", {})
    options = TreeOptions(**{**told, "image_tokens": frozenset(told.get("image_tokens", ()))})
    rows, report = build_token_rows(list(fixture_calls(case)), options)
    assert [row.ids.tolist() for row in rows] == [row["ids"] for row in case["rows"]]
    for row, expected in zip(rows, case["rows"], strict=True):
        spans = [[span.start, span.stop] for span in row.spans if span.trained]
        assert spans == expected["trained"]
        positions = [at for start, stop in spans for at in range(start, stop)]
        assert np.flatnonzero(row.mask).tolist() == positions
        if "logp" in expected:
            logp = [math.nan if value is None else value for value in expected["logp"]]
            assert row.logp == pytest.approx(logp, nan_ok=True)
        if "versions" in expected:
            assert row.versions.tolist() == expected["versions"]
        assert [[i.start, i.stop, i.url] for i in row.images] == expected.get("images", [])
    assert report.forks == case["forks"]
    assert report.masked_tokens == case.get("masked", {})
    assert report.trained_tokens == report.sampled_tokens - report.masked_tokens.total()


def test_calls_without_logprobs_are_counted():
    """Missing log-probabilities are flagged for their answer alone."""
    calls = turns(call("a", [1, 2], choice([3, 4], logprobs=[])), call("b", [1, 2, 3, 4, 5], [6]))
    assert build_token_rows(calls)[1].samples_without_logprobs == 1


def test_merging_is_measured():
    """The ratio is answers per row."""
    calls = turns(call("a", [1], [2]), call("b", [1, 2, 3], [4]), call("c", [1, 2, 3, 4], [5]))
    assert build_token_rows(calls)[1].merge_ratio == 3


def test_a_call_recorded_twice_is_refused():
    """The same answer under the same name twice would be trained twice: an error, no batch."""
    twice = call("a", [1, 2], [3, 4])
    with pytest.raises(TrainingError, match="twice"):
        build_token_rows([twice, twice])


def test_images_that_do_not_match_their_placeholders_merge_with_nothing():
    """Which image a placeholder shows is unknown: rows stay apart, and the calls are counted."""
    calls = turns(call("a", [1, 50, 2], [3]), call("b", [1, 50, 2, 3], [4]))
    rows, report = build_token_rows(calls, TreeOptions(image_tokens=frozenset({50})))
    assert [ids for ids, _ in seen(rows)] == [[1, 50, 2, 3], [1, 50, 2, 3, 4]]
    assert report.calls_with_unknown_images == 2
    assert [row.images[0].url for row in rows] == [None, None]


def words(ids):
    return "".join({3: "hav", 4: "ing", 5: "having"}.get(i, f"<{i}>") for i in ids)


@pytest.mark.parametrize(
    ("shown", "cause"), [([5, EOS], ForkCause.RETOKEN), ([3, EOS], ForkCause.TEMPLATE)]
)
def test_causes_of_drift_are_told_apart_by_text(shown, cause):
    """A drifted history forks; with `decode` the cause is the tokens or the text."""
    calls = turns(call("a", [1, 2], [3, 4, EOS]), call("b", [1, 2, *shown, 6], [7, EOS]))
    rows, report = build_token_rows(calls, decode=words)
    assert [ids for ids, _ in seen(rows)] == [[1, 2, 3, 4, EOS], [1, 2, *shown, 6, 7, EOS]]
    assert report.forks == {cause: 1}
    assert build_token_rows(calls)[1].forks == {ForkCause.DRIFT: 1}
    assert report.trained_tokens == 5


@pytest.mark.parametrize("shown", [[3, EOS], [8, 8, 8]])
def test_realign_demotes_the_drifted_answer(shown):
    """With realignment a short drift costs the last answer, not a row."""
    calls = turns(call("a", [1, 2], [3, 4, EOS]), call("b", [1, 2, *shown, 6], [7, EOS]))
    rows, report = build_token_rows(calls, TreeOptions(realign_tokens=10))
    prompt = [1, 2, *shown, 6]
    assert seen(rows) == [([*prompt, 7, EOS], [len(prompt), len(prompt) + 1])]
    assert report.masked_tokens == {MaskCause.REALIGNED: 3}
    assert build_token_rows(calls, TreeOptions(realign_tokens=1))[1].rows == 2


def test_a_fork_in_the_middle_of_an_answer_trains_it_once_and_whole():
    """An answer belongs to the first row that holds all of it, even if a fork came earlier."""
    calls = turns(
        call("a", [1], [2, 3, 4]),
        call("b", [1, 2, 8], [5]),
        call("c", [1, 2, 3, 4, 7], [6]),
    )
    rows, _ = build_token_rows(calls)
    assert seen(rows) == [([1, 2, 8, 5], [3]), ([1, 2, 3, 4, 7, 6], [1, 2, 3, 5])]


def test_a_prompt_seen_before_its_answer_is_upgraded():
    """Where the longer prompt completed first, the answer inside it becomes trained."""
    calls = turns(call("b", [1, 2, 3, EOS, 4], [5]), call("a", [1, 2], [3, EOS]))
    rows, _ = build_token_rows(calls)
    assert seen(rows) == [([1, 2, 3, EOS, 4, 5], [2, 3, 5])]


def test_roles_and_untrained_models_are_context():
    """Only the selected roles are trained; what others said stays as context."""
    calls = turns(
        call("a", [1, 2], [3], role="planner"),
        call("b", [1, 2, 3, 4], [5], role="coder"),
        call("c", [1, 2, 3, 4, 5], [6], role="coder", trained=False),
    )
    (row,), report = build_token_rows(calls, TreeOptions(roles="^coder$"))
    assert seen([row]) == [([1, 2, 3, 4, 5], [4])]
    assert row.role == "coder"
    assert row.call_ids == ("a", "b")
    assert report.masked_tokens == {MaskCause.ROLE: 2}


def test_a_call_without_role_is_selected_by_the_name_of_its_model():
    """Agents that have no role but models of their own names are told apart by those."""
    calls = turns(
        call("a", [1], [2], model="planner"),
        call("b", [3], [4], model="coder"),
        call("c", [5], [6], model="coder", role="judge"),
    )
    rows, _ = build_token_rows(calls, TreeOptions(roles="^coder$"))
    assert seen(rows) == [([3, 4], [1])]


def test_departures_say_where_and_what():
    """A departure names position, both sides, and the answer that was lost."""
    calls = turns(call("a", [1, 2], [3, 4, EOS]), call("b", [1, 2, 5, EOS, 6], [7, EOS]))
    (gone,) = build_token_rows(calls, decode=words)[1].departures
    assert (gone.call_id, gone.position, gone.cause) == ("b", 2, ForkCause.RETOKEN)
    assert (gone.expected, gone.got) == ((3, 4, EOS), (5, EOS, 6))
    assert (gone.answer_of, gone.lost) == ("a", 3)
    calls = turns(call("a", [1, 2], [3]), call("b", [1, 8], [3]))
    (gone,) = build_token_rows(calls)[1].departures
    assert (gone.position, gone.expected, gone.got) == (1, (2,), (8,))
    assert (gone.cause, gone.answer_of) == (ForkCause.CONTEXT, None)


def test_changed_tools_are_told_from_another_context():
    """The same first message under other tools is a change of tools."""

    def asked(name, prompt, tools, text="hello"):
        request = {"messages": [{"role": "user", "content": text}], "tools": tools}
        return call(name, prompt, [9], request=request)

    calls = turns(asked("a", [1, 2], []), asked("b", [1, 3], ["f"]), asked("c", [4], ["f"], "no"))
    forks = build_token_rows(calls)[1].forks
    assert forks == {ForkCause.TOOLS: 1, ForkCause.CONTEXT: 1}


def test_truncated_answers_can_be_masked():
    """Answers that hit the length limit are left out when asked."""
    calls = turns(call("a", [1], choice([2, 3], finish="length")), call("b", [4], [5]))
    rows, report = build_token_rows(calls, TreeOptions(mask_truncated=True))
    assert seen(rows) == [([4, 5], [1])]
    assert report.masked_tokens == {MaskCause.TRUNCATED: 2}


def test_calls_without_tokens_are_counted():
    """A call without ids makes no row and is not forgotten."""
    rows, report = build_token_rows([call("a", [], [1]), call("b", [1])])
    assert rows == []
    assert report.calls_without_tokens == 2
    assert report.merge_ratio == 0.0


def test_reports_add_up():
    """The total over attempts sums every count."""
    one = build_token_rows(turns(call("a", [1], [2, 3]), call("b", [1], [4])))[1]
    total = TreeReport.total([one, one])
    assert (total.calls, total.trained_tokens, total.forks[ForkCause.SAMPLE]) == (4, 6, 2)


@st.composite
def attempts(draw):
    """Calls over a tiny alphabet, whose prompts often repeat or nearly repeat earlier ones."""
    ids = st.lists(st.integers(1, 2), max_size=3)
    calls, histories = [], [[1]]
    for number in range(draw(st.integers(1, 9))):
        base = draw(st.sampled_from(histories))
        cut = draw(st.integers(0, 2))
        prompt = [*base[: max(1, len(base) - cut)], *draw(ids)]
        outs = draw(st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=3), max_size=3))
        logs = [[-(number + k / 10) for k in range(len(out))] for out in outs]
        made = [
            choice(out, index=i, logprobs=log)
            for i, (out, log) in enumerate(zip(outs, logs, strict=True))
        ]
        calls.append(call(f"c{number}", prompt, *made, at=draw(st.integers(0, 3))))
        histories += [[*prompt, *out] for out in outs]
    return calls


@given(attempts(), st.sampled_from([0, 2]), st.sampled_from([None, 6]), st.randoms())
def test_every_sampled_token_is_trained_once_after_its_own_prompt(calls, realign, limit, random):
    """Whatever the calls: each trained span follows exactly its call's prompt, once, in one row."""
    options = TreeOptions(realign_tokens=realign, max_tokens=limit)
    rows, report = build_token_rows(calls, options)
    by_id = {record.call_id: record for record in calls}
    trained = []
    for row in rows:
        covered = np.zeros(len(row.ids), dtype=bool)
        for span in row.spans:
            record = by_id[span.call_id]
            if span.trained:
                picked = record.choices[span.choice]
                assert row.ids[: span.start].tolist() == record.prompt_token_ids
                assert row.ids[span.start : span.stop].tolist() == picked.token_ids
                assert row.logp[span.start : span.stop] == pytest.approx(picked.logprobs)
                trained.append((span.call_id, span.choice))
                covered[span.start : span.stop] = True
        assert (covered == row.mask).all()
        assert row.mask[-1]
        assert not row.mask[0]
        assert limit is None or len(row.ids) <= limit
    assert len(set(trained)) == len(trained)
    if not report.masked_tokens:
        assert len(trained) == sum(len(c.choices) for c in calls)
    shuffled = list(calls)
    random.shuffle(shuffled)
    assert seen(build_token_rows(shuffled, options)[0]) == seen(rows)
