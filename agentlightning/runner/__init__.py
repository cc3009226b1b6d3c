"""Runners: they claim rollouts, execute the agent, and settle what came out."""

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.runner.agent import LitAgentRunner
    from agentlightning.runner.base import Runner
    from agentlightning.runner.script import TrainingContext

__all__ = ["LitAgentRunner", "Runner", "TrainingContext"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "LitAgentRunner": "agentlightning.runner.agent",
        "Runner": "agentlightning.runner.base",
        "TrainingContext": "agentlightning.runner.script",
    },
)
