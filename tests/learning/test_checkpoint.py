"""Checkpoint directories: whole or absent."""

import logging
import math

import pytest

from agentlightning.errors import CheckpointError
from agentlightning.learning.checkpoint import CheckpointStore


def writes(text):
    def write(path):
        (path / "weights").write_text(text)
        (path / "more").mkdir()
        (path / "more" / "state").write_text(text * 2)

    return write


def test_a_saved_checkpoint_is_found_again(tmp_path):
    """What was saved is the latest, with its files and meta, also from another store object."""
    CheckpointStore(tmp_path).save(3, writes("a"), score=0.5, meta={"version": 7})
    found = CheckpointStore(tmp_path).latest()
    assert (found.step, found.score, found.meta) == (3, 0.5, {"version": 7})
    assert (found.path / "more" / "state").read_text() == "aa"
    assert CheckpointStore(tmp_path / "none").latest() is None


def test_the_last_few_and_the_best_are_kept(tmp_path):
    """Older checkpoints go, except the one with the best score."""
    store = CheckpointStore(tmp_path, keep=2)
    for step, score in enumerate([0.1, 0.9, 0.2, None, 0.3]):
        store.save(step, writes(str(step)), score=score)
    assert [c.step for c in store.all()] == [1, 3, 4]
    assert store.best().step == 1


def test_a_score_that_is_no_number_is_none(tmp_path):
    """It neither stays the best, for nothing is larger than NaN, nor hides one that is."""
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, writes("a"), score=math.nan)
    assert store.best() is None
    store.save(2, writes("b"), score=-0.5)
    store.save(3, writes("c"), score=math.nan)
    assert store.best().step == 2


def test_saving_a_step_again_replaces_it(tmp_path):
    """The same step saved twice holds the second contents."""
    store = CheckpointStore(tmp_path)
    store.save(1, writes("a"))
    store.save(1, writes("b"))
    assert (store.latest().path / "weights").read_text() == "b"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_nothing(tmp_path):
    """An error while writing leaves the earlier checkpoint and no other file."""
    store = CheckpointStore(tmp_path)
    store.save(1, writes("a"))

    def fails(path):
        writes("b")(path)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save(2, fails)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


@pytest.mark.parametrize("damage", ["change", "remove", "manifest"])
def test_damaged_checkpoints_are_detected_and_passed_over(tmp_path, caplog, damage):
    """`latest` falls back with a warning; asking for the damaged one raises and names the file."""
    store = CheckpointStore(tmp_path)
    store.save(1, writes("a"))
    damaged = store.save(2, writes("b"))
    target = damaged.path / ("manifest.json" if damage == "manifest" else "weights")
    target.write_text("c") if damage != "remove" else target.unlink()
    with caplog.at_level(logging.WARNING):
        assert store.latest().step == 1
    assert caplog.records
    with pytest.raises(CheckpointError, match=target.name):
        store.verify(damaged)


def test_partial_directories_of_a_killed_writer_are_ignored_and_removed(tmp_path):
    """Leftovers never count as checkpoints and go with the next save."""
    store = CheckpointStore(tmp_path)
    (tmp_path / "partial-x").mkdir()
    (tmp_path / "step-000009").mkdir()
    assert store.latest() is None
    store.save(1, writes("a"))
    assert store.latest().step == 1
    assert not (tmp_path / "partial-x").exists()


def test_unknown_formats_are_refused(tmp_path):
    """A manifest of another format raises."""
    (tmp_path / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(CheckpointError, match="format"):
        CheckpointStore.read(tmp_path)
