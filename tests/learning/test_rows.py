"""Rows are checked when they are built."""

from dataclasses import replace

import numpy as np
import pytest

from agentlightning.errors import EmptyBatchError, TrainingError
from tests.learning.tiny import batch_of, random_rows, row


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mask": np.array([True, False, True])}, "first token"),
        ({"adv": np.array([0, np.nan, 0], np.float32)}, "advantage"),
        ({"weight": np.array([0, -1, 0], np.float32)}, "weight"),
        ({"logp_rollout": np.array([0, 0.5, 0], np.float32)}, "positive"),
        ({"versions": np.zeros(2, np.int32)}, "length of ids"),
    ],
)
def test_impossible_rows_are_refused(change, match):
    """Each impossible stream raises with what is wrong and whose row it is."""
    with pytest.raises(TrainingError, match=match) as caught:
        replace(row([1, 2, 3], [1]), **change)
    assert "'ro'" in str(caught.value)


def test_a_batch_counts_its_tokens_and_knows_its_oldest_version():
    """Counts add up over rows; untrained and unknown versions do not count."""
    versions = np.array([-1, 4, -1, 3], np.int32)
    batch = batch_of([row([1, 2, 3, 4], [1, 2], versions=versions), row([1, 2], [1])])
    assert (len(batch), batch.n_tokens, batch.n_trained) == (2, 6, 3)
    assert batch.oldest_version == 4
    assert batch_of([]).oldest_version is None
    with pytest.raises(EmptyBatchError):
        batch_of([]).require_signal()


def test_mini_batches_keep_groups_whole_and_the_size_of_the_step():
    """A split distributes whole groups and scales weights by the number of parts."""
    rows = random_rows(groups=4)
    parts = batch_of(rows).split(3)
    groups = [{one.group_id for one in part} for part in parts]
    assert len(parts) == 3
    assert set.union(*groups) == {"g-0", "g-1", "g-2", "g-3"}
    assert sum(map(len, groups)) == 4
    total = sum(float(one.weight.sum()) for part in parts for one in part)
    assert total == pytest.approx(3 * sum(float(one.weight.sum()) for one in rows), rel=1e-5)
