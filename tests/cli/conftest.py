"""What commands set up for their own process is taken back, since here it is everybody's."""

import logging
from collections.abc import Generator

import pytest


@pytest.fixture(autouse=True)
def own_logging() -> Generator[None]:
    """Leave the package's logger as it was: `agl store` sets it up, and then it tells nobody else."""
    logger = logging.getLogger("agentlightning")
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagate
