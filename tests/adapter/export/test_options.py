"""Wrong options are refused."""

from typing import Any

import pytest

from agentlightning.adapter.export import ExportOptions
from agentlightning.errors import ConfigurationError


@pytest.mark.parametrize(
    "wrong",
    [
        {"statuses": ("running",)},
        {"statuses": ()},
        {"best_of_group": 0},
        {"min_margin": -1.0},
        {"pairs": "some"},
        {"agents": "("},
    ],
)
def test_wrong_options(wrong: dict[str, Any]):
    """Each is named in the error, with what would do."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ExportOptions(**wrong)
