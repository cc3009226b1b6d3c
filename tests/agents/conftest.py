"""Makes what the shared checks find readable."""

import pytest

pytest.register_assert_rewrite("tests.agents.outside")
