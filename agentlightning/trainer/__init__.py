"""The trainer: wires algorithm, runners, store and tracer together."""

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.trainer.init_utils import build_component
    from agentlightning.trainer.trainer import Trainer

__all__ = ["Trainer", "build_component"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Trainer": "agentlightning.trainer.trainer",
        "build_component": "agentlightning.trainer.init_utils",
    },
)
