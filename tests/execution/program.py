"""A user's program, run as a process of its own so that it can be interrupted and killed.

`python -m tests.execution.program <scenario> <folder> <start method>`; it writes `state.json`
into the folder when it is interrupted in an orderly way.
"""

import asyncio
import json
import sys
from functools import partial
from pathlib import Path

from agentlightning.execution import ClientServerExecutionStrategy, SharedMemoryExecutionStrategy
from agentlightning.store.memory import InMemoryLightningStore
from tests.execution import bundles


def main(scenario: str, folder: Path, start_method: str) -> None:
    """Run one scenario until somebody ends it."""
    stubborn = scenario == "stubborn"
    if scenario == "threads":
        strategy = SharedMemoryExecutionStrategy(graceful_delay=0.3)
    else:
        strategy = ClientServerExecutionStrategy(
            n_runners=2,
            graceful_timeout=60.0 if stubborn else 0.3,
            terminate_timeout=5.0,
            start_method=start_method,
        )
    agent = bundles.Sleeps(folder, stubborn=stubborn)
    algorithm = (
        bundles.blocking if scenario == "blocking" else partial(bundles.enqueue_and_wait, [1, 2])
    )
    runner = (
        bundles.wait_for_event if scenario == "blocking" else partial(bundles.run_agents, agent)
    )
    store = InMemoryLightningStore()
    (folder / "started").touch()
    try:
        strategy.execute(algorithm, runner, store)
    except KeyboardInterrupt:
        if not stubborn:
            (folder / "state.json").write_text(json.dumps(asyncio.run(bundles.collect(store))))
        raise


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
