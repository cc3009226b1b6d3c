"""From rewards and rows to a batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.token_row import RowSpan, TokenRow
from agentlightning.learning.batch import BatchSpec, ScoredRollout, build_batch


def token_row(trained, context=2):
    n = context + trained
    mask = np.arange(n) >= context
    span = RowSpan(start=context, stop=n, call_id="c", choice=0, role="main", trained=True)
    return TokenRow(
        ids=np.arange(n, dtype=np.int32),
        mask=mask,
        logp=np.where(mask, -1.0, 0.0).astype(np.float32),
        versions=np.full(n, 5, dtype=np.int32),
        spans=(span,),
    )


def rollout(name, group, reward, *trained):
    rows = [token_row(n) for n in trained]
    return ScoredRollout(rollout_id=name, group_id=group, rows=rows, reward=reward)


def test_every_row_of_a_rollout_gets_its_advantage_and_share():
    """Advantages come per rollout; a rollout with two rows shares its weight between them."""
    batch, report = build_batch(
        [rollout("a", "g", 1.0, 3, 1), rollout("b", "g", 0.0, 2)], temperature=0.7
    )
    assert report.advantages == {"a": 0.5, "b": -0.5}
    assert batch.temperature == 0.7
    assert [float(one.adv[-1]) for one in batch] == [0.5, 0.5, -0.5]
    assert [float(one.weight[-1]) for one in batch] == pytest.approx([1 / 8, 1 / 8, 1 / 4])
    assert all((one.adv[~one.mask] == 0).all() for one in batch)
    assert (batch.rows[0].role, batch.rows[0].call_ids) == ("main", ("c",))


def test_zero_signal_groups_leave_the_denominators_only_when_dropped():
    """Dropped groups do not shrink the others' shares; kept ones do."""
    rollouts = [rollout("a", "g", 1.0, 2), rollout("b", "g", 0.0, 2)]
    flat = [rollout("c", "h", 1.0, 2), rollout("d", "h", 1.0, 2)]
    dropped, report = build_batch(rollouts + flat)
    kept, _ = build_batch(rollouts + flat, BatchSpec(zero_signal="keep"))
    assert (len(dropped), len(kept)) == (2, 4)
    assert float(dropped.rows[0].weight[-1]) == pytest.approx(2 * float(kept.rows[0].weight[-1]))
    assert (report.zero_signal, report.zero_signal_groups, report.groups) == (2, 1, 2)


def test_unscored_and_empty_rollouts_are_counted():
    """An unscored rollout is no row and no part of the baseline; one without rows counts for it."""
    batch, report = build_batch(
        [rollout("a", "g", 1.0, 2), rollout("b", "g", float("nan"), 2), rollout("c", "g", 0.0)]
    )
    assert [one.rollout_id for one in batch] == ["a"]
    assert (report.unscored, report.without_rows) == (1, 1)
    assert report.advantages["a"] == 0.5


def test_a_batch_of_one_mind_comes_out_empty():
    """Equal rewards everywhere leave no row."""
    batch, _ = build_batch([rollout("a", "g", 1.0, 2), rollout("b", "g", 1.0, 2)])
    assert len(batch) == 0
    assert len(build_batch([])[0]) == 0


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_forking_does_not_change_a_rollouts_pull(rows):
    """The sum of weight times advantage of a rollout is the same however many rows it has."""

    def pull(*parts):
        rollouts = [rollout("a", "g", 1.0, *parts), rollout("b", "g", 0.0, 2)]
        batch, _ = build_batch(rollouts)
        return sum(float((r.weight * r.adv).sum()) for r in batch if r.rollout_id == "a")

    assert pull(*rows) == pytest.approx(pull(sum(rows)), rel=1e-5)
