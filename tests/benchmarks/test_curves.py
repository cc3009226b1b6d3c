"""What learning curves say of fits, without fitting."""

from pathlib import Path

import pytest

from benchmarks.curves.curve import Curve, Figures, Start
from benchmarks.curves.models import make_tokenizer
from benchmarks.curves.records import Records
from benchmarks.curves.registry import all_curves
from benchmarks.curves.tables import tables


def figures(*rewards: float) -> Figures:
    """Return what a fit with these rewards brought."""
    return Figures(rewards=rewards, before=0.25, after=0.75, wall_seconds=9, cpu_seconds=8.26)


def curve(name: str) -> Curve:
    """Return a curve that nobody fits."""

    def fit(start: Start) -> Figures:
        raise AssertionError(start)

    return Curve(name=name, title=f"the {name}", about=("About it.",), fit=fit, target=0.9)


def test_first_and_last_are_means_of_the_ends():
    """The first two steps, and the last quarter, of three steps at least and ten at most."""
    assert figures(0.0, 0.2, 0.5, 0.9, 1.0, 0.8).first == pytest.approx(0.1)
    assert figures(0.0, 0.2, 0.5, 0.9, 1.0, 0.8).last == pytest.approx(0.9)
    assert figures(*[0.0] * 90, *[1.0] * 10).last == 1.0


def test_a_curve_must_reach_its_target_and_its_control_must_not_rise():
    """Reward below the target fails a fit, and reward well above its beginning a control."""
    learnt, not_learnt = figures(0.0, 0.0, 0.9, 0.9, 0.9), figures(0.1, 0.1, 0.2, 0.1, 0.2)
    assert curve("task").passed(learnt, shuffled=False)
    assert not curve("task").passed(not_learnt, shuffled=False)
    assert curve("task").passed(not_learnt, shuffled=True)
    assert not curve("task").passed(learnt, shuffled=True)


def test_figures_are_kept_and_replaced(tmp_path: Path):
    """Another program finds them in the file, the later fit of a seed in place of the earlier."""
    records = Records(tmp_path / "made" / "curves.jsonl")
    assert not records.passed(curve("task"))
    records.add("task", 1, False, figures(0, 0, 1))
    records.add("task", 0, False, figures(0, 0, 0))
    records.add("task", 0, False, figures(0, 0, 1, 1, 1))
    again = Records(tmp_path / "made" / "curves.jsonl")
    assert [(seed, len(found.rewards)) for seed, found in again.fits(curve("task"))] == [
        (0, 5),
        (1, 3),
    ]
    assert again.control(curve("task")) is None
    again.add("task", 0, True, figures(0, 0, 1, 1, 1))
    assert again.control(curve("task")) is not None
    assert not again.passed(curve("task")), "its control rose"


def test_a_curve_has_a_table_and_algorithms_share_one(tmp_path: Path):
    """Seeds are lines of a curve's own table, and columns of the algorithms'."""
    records = Records(tmp_path / "curves.jsonl")
    for name in ("task", "preference/a", "preference/b"):
        records.add(name, 0, False, figures(0, 0.1, 1, 1, 1))
    records.add("task", 0, True, figures(0, 0.1, 0, 0, 0))
    records.add("preference/a", 1, False, figures(0, 0.1, 0.9))
    own, shared = tables([curve(n) for n in ("task", "preference/a", "preference/b")], records)
    assert own.heading == "## Learning: the task"
    assert own.lines[1:] == [
        ["0", "0.05 → 1.00", "25 % → 75 %", "9 s", "8 s"],
        ["0, advantages shuffled", "0.05 → 0.00", "25 % → 75 %", "9 s", "8 s"],
    ]
    assert shared.lines[1:] == [
        ["the preference/a", "0.05 → 1.00", "0.05 → 0.33", "3, 3", "-", "8.3 s"],
        ["the preference/b", "0.05 → 1.00", "-", "3", "-", "8.3 s"],
    ]


def test_every_curve_has_a_name_of_its_own():
    """Names choose curves on the command line and keep their figures apart."""
    names = [each.name for each in all_curves()]
    assert len(set(names)) == len(names) > 10


def test_tokenizers_give_back_what_they_read():
    """Words stand apart and characters side by side, before and after."""
    words, letters = make_tokenizer(["one", "two"]), make_tokenizer("abc", characters=True)
    assert words.decode(words.encode("two one two")) == "two one two"
    assert letters.decode(letters.encode("cab")) == "cab"
    chat = words.apply_chat_template(
        [{"role": "user", "content": "one"}], add_generation_prompt=True, tokenize=False
    )
    assert chat == "<user>one<end><assistant>"
    assert len(words.encode(chat)) == 4
