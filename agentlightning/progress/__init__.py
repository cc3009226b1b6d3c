"""Watching a fit: the report types, a live terminal view, and a metrics file."""

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.progress.base import ProgressSink, RunInfo, Sample, StepReport
    from agentlightning.progress.fanout import FanOut
    from agentlightning.progress.jsonl import JsonlSink
    from agentlightning.progress.terminal import TerminalSink

__all__ = [
    "FanOut",
    "JsonlSink",
    "ProgressSink",
    "RunInfo",
    "Sample",
    "StepReport",
    "TerminalSink",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ProgressSink": "agentlightning.progress.base",
        "RunInfo": "agentlightning.progress.base",
        "Sample": "agentlightning.progress.base",
        "StepReport": "agentlightning.progress.base",
        "FanOut": "agentlightning.progress.fanout",
        "JsonlSink": "agentlightning.progress.jsonl",
        "TerminalSink": "agentlightning.progress.terminal",
    },
)
