"""The ledger: every call is counted once, and a bound on memory forgets nobody in flight."""

import asyncio

from agentlightning.gateway.seal import CallLedger


async def test_counts_add_up_by_outcome() -> None:
    """Started calls are finished, failed, cancelled or in flight."""
    ledger = CallLedger()
    tallies = [ledger.begin(("r", "a")) for _ in range(4)]
    ledger.end(tallies[0], "ok")
    ledger.end(tallies[1], "error")
    ledger.end(tallies[2], "cancelled")
    tally = await ledger.seal(("r", "a"), 0.01)
    assert tally.counts() == {"started": 4, "finished": 1, "failed": 1, "cancelled": 1}
    assert tally.in_flight == 1


async def test_all_who_seal_are_woken() -> None:
    """Several seals of one attempt end together, and a second attempt is not waited for."""
    ledger = CallLedger()
    tally = ledger.begin(("r", "a"))
    ledger.begin(("r", "other"))
    sealing = [asyncio.create_task(ledger.seal(("r", "a"), 10)) for _ in range(3)]
    await asyncio.sleep(0)
    ledger.end(tally, "ok")
    assert [(await one).finished for one in sealing] == [1, 1, 1]
    assert tally.waiters == []


async def test_the_oldest_idle_attempts_are_forgotten() -> None:
    """Past its bound a ledger forgets attempts that ended longest ago, none in flight."""
    ledger = CallLedger(most_attempts=2)
    busy = ledger.begin(("r", "busy"))
    for name in ("b", "c", "d"):
        ledger.end(ledger.begin(("r", name)), "ok")
    assert (await ledger.seal(("r", "b"), 0)).started == 0
    assert (await ledger.seal(("r", "d"), 0)).started == 1
    ledger.end(busy, "ok")
    assert (await ledger.seal(("r", "busy"), 0)).finished == 1
