"""Small process tools."""

import os
import subprocess
import sys
import threading

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.execution.processes import choose_context, kill_group


def test_forking_is_chosen_only_without_threads():
    """Without a wish, a process with one thread forks, and any other spawns."""
    code = (
        "import threading; from agentlightning.execution.processes import choose_context as c\n"
        "print(c().get_start_method())\n"
        "e = threading.Event(); t = threading.Thread(target=e.wait); t.start()\n"
        "print(c().get_start_method()); e.set(); t.join()"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["fork", "spawn"]


def test_wishes_are_granted_or_refused():
    """A start method that was asked for is used; an unknown one is refused with the known ones."""
    assert choose_context("spawn").get_start_method() == "spawn"
    with pytest.raises(ConfigurationError, match="spawn"):
        choose_context("beam")


def test_killing_a_group_spares_nobody_and_may_be_repeated():
    """A group dies with all its members; killing it again is harmless."""
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 60 & wait"], start_new_session=True, stdout=subprocess.PIPE
    )
    kill_group(leader.pid)
    # The pipe's end is only reached when the sleeping child has died as well.
    assert leader.stdout.read() == b""
    leader.wait(10)
    leader.stdout.close()
    kill_group(leader.pid)
    assert os.getpid() != leader.pid
    assert threading.active_count() >= 1
