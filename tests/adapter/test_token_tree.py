"""The token tree: fixtures of what agents do to their histories, and what must always hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.token_row import ForkCause, MaskCause, TreeReport
from agentlightning.adapter.token_tree import TreeOptions, build_token_rows
from agentlightning.types.call import CallChoice, CallRecord, VersionSpan

EOS = 9


def choice(out, *, index=0, logprobs=None, versions=(), finish="stop"):
    return CallChoice(
        index=index,
        token_ids=list(out),
        logprobs=[-0.1 * t for t in out] if logprobs is None else logprobs,
        versions=[VersionSpan(start=s, length=n, version=v) for s, n, v in versions],
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


def test_f1_exact_extensions_merge_into_one_row():
    """Three turns that extend one another exactly are one row with three trained spans."""
    a = [1, 2, 3, 4, EOS]
    b = [*a, 5, 6, 7, EOS]
    calls = turns(call("a", [1, 2], [3, 4, EOS]), call("b", [*a, 5], [6, 7, EOS]))
    calls += [call("c", [*b, 1, 1], [8, EOS], at=5)]
    rows, report = build_token_rows(calls)
    assert seen(rows) == [([*b, 1, 1, 8, EOS], [2, 3, 4, 6, 7, 8, 11, 12])]
    assert [(s.start, s.stop, s.call_id) for s in rows[0].spans] == [
        (2, 5, "a"),
        (6, 9, "b"),
        (11, 13, "c"),
    ]
    assert rows[0].logp[[0, 2, 3, 5]] == pytest.approx([0, -0.3, -0.4, 0])
    assert report.merge_ratio == 3
    assert report.forks.total() == 0


def test_f5_interleaved_agents_make_one_row_each():
    """A main agent and two interleaved sub-agents give three rows, and no token twice."""
    main, one, two = [1, 1, 1], [1, 2, 2], [1, 3, 3]
    calls = turns(
        call("m1", main, [5, EOS]),
        call("s1", one, [6, EOS]),
        call("t1", two, [7, EOS]),
        call("s2", [*one, 6, EOS, 4], [6, 6]),
        call("m2", [*main, 5, EOS, 4], [5, 5]),
        call("t2", [*two, 7, EOS, 4], [7, 7]),
    )
    rows, report = build_token_rows(calls)
    assert sorted(ids for ids, _ in seen(rows)) == [
        [1, 1, 1, 5, EOS, 4, 5, 5],
        [1, 2, 2, 6, EOS, 4, 6, 6],
        [1, 3, 3, 7, EOS, 4, 7, 7],
    ]
    assert report.trained_tokens == report.sampled_tokens == 12
    assert report.forks == {ForkCause.CONTEXT: 2}


def test_f6_choices_are_separate_samples():
    """Four choices are four rows; the one that was continued has two spans."""
    calls = turns(
        call("a", [1, 2], [3, EOS], [4, EOS], [3, EOS], [5, EOS]),
        call("b", [1, 2, 4, EOS, 6], [7, EOS]),
    )
    rows, report = build_token_rows(calls)
    assert sorted(seen(rows)) == [
        ([1, 2, 3, EOS], [2, 3]),
        ([1, 2, 3, EOS], [2, 3]),
        ([1, 2, 4, EOS, 6, 7, EOS], [2, 3, 5, 6]),
        ([1, 2, 5, EOS], [2, 3]),
    ]
    assert report.forks == {ForkCause.SAMPLE: 3}


def test_f7_a_failed_call_is_masked_and_its_retry_trained():
    """A retry of the same prompt is a sibling; the failed answer is not trained."""
    failed = call("a", [1, 2], [3, 3], outcome="error")
    rows, report = build_token_rows(turns(failed, call("b", [1, 2], [3, 4])))
    assert seen(rows) == [([1, 2, 3, 4], [2, 3])]
    assert report.masked_tokens == {MaskCause.FAILED: 2}


def test_f8_a_compacted_history_starts_a_new_row():
    """A summary in place of the history forks once, in the context."""
    calls = turns(
        call("a", [1, 2], [3, EOS]),
        call("b", [1, 2, 3, EOS, 4], [5, EOS]),
        call("c", [1, 7, 7], [8, EOS]),
    )
    rows, report = build_token_rows(calls)
    assert seen(rows) == [
        ([1, 2, 3, EOS, 4, 5, EOS], [2, 3, 5, 6]),
        ([1, 7, 7, 8, EOS], [3, 4]),
    ]
    assert report.forks == {ForkCause.CONTEXT: 1}


def test_f9_a_prompt_without_new_tokens_duplicates_nothing():
    """A prompt that equals an earlier context exactly continues it with zero new tokens."""
    calls = turns(call("a", [1, 2], [3, 4]), call("b", [1, 2, 3, 4], [5]), call("c", [1], [6]))
    rows, _ = build_token_rows(calls)
    assert seen(rows) == [([1, 2, 3, 4, 5], [2, 3, 4]), ([1, 6], [1])]


def test_f10_overlong_answers_are_dropped_and_prompts_never_trained():
    """Rows end after the last answer that fits; a prompt beyond the limit trains nothing."""
    calls = turns(
        call("a", [1, 2], [3, EOS]),
        call("b", [1, 2, 3, EOS, 4, 4, 4], [5, EOS]),
        call("c", [7] * 20, [8, EOS]),
    )
    rows, report = build_token_rows(calls, TreeOptions(max_tokens=8))
    assert seen(rows) == [([1, 2, 3, EOS], [2, 3])]
    assert report.masked_tokens == {MaskCause.OVERLONG: 4}


def test_f11_a_span_over_two_versions_keeps_both():
    """A partial rollout is one span whose tokens name their versions and log-probabilities."""
    out = choice([3, 4, 5], versions=[(0, 1, 3), (1, 2, 4)])
    (row,), _ = build_token_rows([call("a", [1, 2], out)])
    assert row.versions.tolist() == [-1, -1, 3, 4, 4]
    assert row.logp == pytest.approx([0, 0, -0.3, -0.4, -0.5])
    assert len(row.spans) == 1


def test_f12_missing_logprobs_are_flagged_for_that_span_alone():
    """A call without log-probabilities gives NaN there; other calls keep theirs."""
    calls = turns(call("a", [1, 2], choice([3, 4], logprobs=[])), call("b", [1, 2, 3, 4, 5], [6]))
    (row,), report = build_token_rows(calls)
    assert np.isnan(row.logp).tolist() == [False, False, True, True, False, False]
    assert row.logp[5] == pytest.approx(-0.6)
    assert report.samples_without_logprobs == 1


def test_f13_an_eos_put_back_by_the_template_is_trained_once():
    """The harness trimmed the end token, the template restored it: one row, trained once."""
    calls = turns(call("a", [1, 2], [3, EOS]), call("b", [1, 2, 3, EOS, 7, 7], [4, EOS]))
    rows, report = build_token_rows(calls)
    assert seen(rows) == [([1, 2, 3, EOS, 7, 7, 4, EOS], [2, 3, 6, 7])]
    assert report.drift_tokens == 0


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
