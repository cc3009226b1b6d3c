"""Export: rollouts out of a store, data sets for fine-tuning in."""

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.adapter.export.data import ExportedData
    from agentlightning.adapter.export.exporter import (
        FORMATS,
        export_rollouts,
        export_rollouts_sync,
        export_samples,
    )
    from agentlightning.adapter.export.options import ExportOptions
    from agentlightning.adapter.export.sample import Sample, samples_of

__all__ = [
    "FORMATS",
    "ExportOptions",
    "ExportedData",
    "Sample",
    "export_rollouts",
    "export_rollouts_sync",
    "export_samples",
    "samples_of",
]

_EXPORT = "agentlightning.adapter.export.exporter"
_SAMPLE = "agentlightning.adapter.export.sample"

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "FORMATS": _EXPORT,
        "ExportOptions": "agentlightning.adapter.export.options",
        "ExportedData": "agentlightning.adapter.export.data",
        "Sample": _SAMPLE,
        "export_rollouts": _EXPORT,
        "export_rollouts_sync": _EXPORT,
        "export_samples": _EXPORT,
        "samples_of": _SAMPLE,
    },
)
