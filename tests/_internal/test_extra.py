"""Optional dependencies that are asked for by name."""

import sys

import pytest

from agentlightning._internal.extra import require_extra
from agentlightning.errors import MissingExtraError


def test_a_missing_library_names_its_extra():
    """The message is the command that installs it; it is an ImportError, too."""
    with pytest.raises(MissingExtraError, match=r"pip install 'agentlightning\[rl\]'") as caught:
        require_extra("rl", "json", "surely_not_installed")
    assert isinstance(caught.value, ImportError)


def test_a_present_library_is_not_loaded():
    """Looking is free: nothing is imported."""
    loaded = set(sys.modules)
    require_extra("rl", "turtledemo")
    assert "turtledemo" not in set(sys.modules) - loaded
