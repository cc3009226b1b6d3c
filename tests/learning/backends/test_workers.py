"""Worker processes: started, told, listened to, ended. Real ones."""

import os
import time

import pytest

from agentlightning.errors import NonFiniteLossError, TrainingError
from agentlightning.learning.backends.workers import Workers


class Worker:
    """Does what tests ask of it."""

    def __init__(self, place):
        self.place = place

    def stand(self):
        return self.place.rank, self.place.size, self.place.device, self.place.meeting.is_dir()

    def fail(self, rank, error):
        if self.place.rank == rank:
            raise error
        return rank

    def wait_for_first(self):
        if self.place.rank:
            time.sleep(600)
        raise OSError("out of luck")

    def die(self, rank):
        if self.place.rank == rank:
            os._exit(3)


@pytest.fixture
def workers():
    started = Workers(Worker, ["cpu", "meta"], first_rank=0, lockstep=True)
    yield started
    started.close()
    started.close()


def test_they_do_what_they_are_told_until_one_fails(workers):
    """Answers come by rank; errors about numbers end nobody, others end those that would wait."""
    assert workers.call("stand") == [(0, 2, "cpu", True), (1, 2, "meta", True)]
    with pytest.raises(NonFiniteLossError, match="a bad number"):
        workers.call("fail", 1, NonFiniteLossError("a bad number"))
    workers.tell("fail", 0, ValueError("nonsense for 0"))
    workers.close()
    assert not workers.meeting.exists()


def test_nobody_waits_for_one_that_failed(workers):
    """The error arrives at once, and all are ended."""
    with pytest.raises(TrainingError, match="OSError: out of luck") as caught:
        workers.call("wait_for_first")
    assert caught.value.__notes__ == ["in the training process on cpu, rank 0"]


def test_one_that_died_is_told():
    """Its end is an error that says what to do, then and later."""
    workers = Workers(Worker, ["cpu"], first_rank=1)
    try:
        for method in (("die", 1), ("stand",)):
            with pytest.raises(TrainingError, match="go on from a checkpoint"):
                workers.call(*method)
    finally:
        workers.close()
