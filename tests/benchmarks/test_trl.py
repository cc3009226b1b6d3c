"""The comparison with TRL: its arithmetic."""

from benchmarks.results import section, write_section
from benchmarks.trl import Run, Step, reached, table


def run(cpus, rewards):
    steps = [
        Step(wall=cpu / 2, cpu=cpu, reward=reward, tokens=100.0)
        for cpu, reward in zip(cpus, rewards, strict=True)
    ]
    return Run(steps, cpu=sum(cpus) + 1)


SLOW = run([80, 40, 44, 40], [0.5, 0.8, 1.0, 1.0])
FAST = run([9, 5, 4, 5], [0.5, 0.6, 0.85, 0.97])


def test_later_steps_count_and_the_first_does_not():
    """Medians and rates are those after the warm-up."""
    assert SLOW.cpu_per_step == 40
    assert FAST.wall_per_step == 2.5
    assert FAST.tokens_per_cpu_second == 300 / 14


def test_time_to_a_reward_needs_two_steps_above_it():
    """CPU seconds add up to the second of two steps that reach the level on average."""
    assert SLOW.cpu_until(0.9) == 164
    assert FAST.cpu_until(0.9) == 23
    assert FAST.cpu_until(0.99) is None


def test_the_target_is_a_ratio_of_medians():
    """Eight times cheaper is enough, less is not; a single side cannot miss."""
    assert reached({"trl": SLOW, "loop": FAST})
    assert not reached({"trl": SLOW, "loop": run([9, 6, 6], [0, 0, 0])})
    assert reached({"loop": SLOW})


def test_the_table_tells_how_many_times_better_we_are():
    """Costs and rates are both given as factors of TRL's; what was not reached has a dash."""
    lines = {line[0]: line[1:] for line in table({"trl": SLOW, "loop": FAST})}
    assert lines["CPU seconds, later steps (median)"] == ["40.0", "5.0 (8.0x)"]
    assert lines["tokens per CPU second"][1].endswith("(8.9x)")
    never = table({"loop": run([1, 1], [0.0, 0.0])})
    assert ["CPU seconds of steps until reward 0.9", "-"] in never


def test_a_section_replaces_the_one_of_its_name(tmp_path):
    """Writing again keeps one section and leaves its neighbours."""
    page = tmp_path / "R.md"
    page.write_text("# R\n\n## A\n\nold\n\n## A and more\n\nkept\n")
    text = section("## A", "run me", "quiet", [["", "x"], ["y", "1"]])
    write_section("## A", text, page)
    found = page.read_text()
    assert found.count("## A\n") == 1
    assert "old" not in found
    assert "| y | 1 |" in found
    assert found.endswith("## A and more\n\nkept\n")
