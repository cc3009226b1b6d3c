"""One sink in front of several."""

from agentlightning.progress import FanOut
from tests.progress.test_terminal import INFO, play


class Listener:
    """Notes every report under its own name, in a list that it may share with others."""

    def __init__(self, name, heard):
        self.name, self.heard = name, heard

    def __getattr__(self, report):
        def note(*args, **kwargs):
            self.heard.append((self.name, (report, args, kwargs)))

        return note


def test_every_sink_hears_everything_in_order():
    """Each report, with its arguments, goes to the first sink and then to the second."""
    direct, heard = [], []
    play(Listener("only", direct))
    play(FanOut([Listener("first", heard), Listener("second", heard)]))
    assert [name for name, _ in heard] == ["first", "second"] * len(direct)
    reports = [report for name, report in heard if name == "first"]
    assert reports == [report for name, report in heard if name == "second"]
    assert [report[0] for report in reports] == [report[0] for _, report in direct]
    assert ("started", (INFO,), {}) in reports
    assert ("phase", ("sampling", 3, 32), {}) in reports
    assert ("evaluated", (0, 0.25, 32, 3.0), {"metrics": None}) in reports
    steps = {"interrupted": False, "next_steps": ["The run lies in runs/x"]}
    assert reports[-1] == ("ended", (), steps)


def test_no_sinks_are_fine():
    """Nobody needs to watch."""
    play(FanOut([]))


def test_later_changes_of_the_list_change_nothing():
    """The sinks are those that were given at the start."""
    heard = []
    sinks = [Listener("kept", heard)]
    fan = FanOut(sinks)
    sinks.clear()
    fan.warned("still heard")
    assert heard == [("kept", ("warned", ("still heard",), {}))]
