"""The idempotency key of a call, as it travels by context."""

import asyncio

import pytest

from agentlightning.store.idempotency import current_idempotency_key, idempotency_key


def test_key_holds_within_the_block():
    """A key is there within its block only, also when that raises; None takes it away."""
    assert current_idempotency_key() is None
    with pytest.raises(RuntimeError), idempotency_key("outer"):
        assert current_idempotency_key() == "outer"
        with idempotency_key(None):
            assert current_idempotency_key() is None
        assert current_idempotency_key() == "outer"
        raise RuntimeError
    assert current_idempotency_key() is None


async def test_keys_of_tasks_are_their_own():
    """Calls at the same time do not see each other's keys, and their tasks inherit them."""

    async def call(key):
        with idempotency_key(key):
            await asyncio.sleep(0)
            return await asyncio.create_task(inner())

    async def inner():
        return current_idempotency_key()

    assert await asyncio.gather(*(call(str(i)) for i in range(3))) == ["0", "1", "2"]
