"""Training runs whose algorithm, runner or store is killed, and which are then resumed.

All points of the matrix: `python -m benchmarks.kill_matrix`.
"""

import pytest

from tests.chaos.kill_matrix import LEARNT, MatrixRun, kills, ready_processes
from tests.support.tiny_model import make_tiny_model

pytestmark = pytest.mark.chaos

POINTS = kills()[:6]
"""Each victim under two schedules."""


@pytest.fixture(scope="module")
def context():
    """Processes that have the libraries loaded when they start."""
    with ready_processes() as context:
        yield context


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kill", POINTS, ids=[kill.label for kill in POINTS])
async def test_a_killed_run_is_resumed_without_loss(kill, context, tmp_path):
    """It ends after the same steps, trained every step once, ran no rollout again that had ended,
    and learnt as much as a run that nobody disturbed."""
    model = make_tiny_model(tmp_path / "model", hidden=32)
    run = MatrixRun(context, tmp_path / "fit", model)
    await run.run(kill.settings, kill)
    assert await run.audit() > LEARNT
    assert run.parts == (2 if kill.victim == "algorithm" else 1)
