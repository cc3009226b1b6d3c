"""A runner in a program of its own, as one is started on another machine.

It runs under the interpreter of an agent framework's environment, and meets store and gateway over
HTTP only. Usage: `python -m tests.agents.serve <module>[:<agent>] --port N --rollouts N`
"""

import argparse
import importlib

import agentlightning as agl
from agentlightning.execution.client_server import ClientServerExecutionStrategy

READY = "ready to run"


def main() -> None:
    """Serve so many rollouts and end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("agent")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rollouts", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=4)
    options = parser.parse_args()
    module, _, name = options.agent.partition(":")
    trainer = agl.Trainer(
        strategy=ClientServerExecutionStrategy(role="runner", server_port=options.port),
        max_rollouts=options.rollouts,
        concurrency=options.concurrency,
    )
    agent = getattr(importlib.import_module(module), name or "agent")
    print(READY, flush=True)
    trainer.fit(agent)


if __name__ == "__main__":
    main()
