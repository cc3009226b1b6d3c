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


async def test_sealed_attempts_are_forgotten_sooner() -> None:
    """Of attempts that have ended only the last are kept, however many are allowed in all."""
    ledger = CallLedger(most_sealed=3)
    for number in range(100):
        key = ("r", str(number))
        ledger.end(ledger.begin(key), "ok")
        assert (await ledger.seal(key, 0)).finished == 1
    assert len(ledger) == 3
    assert (await ledger.seal(("r", "99"), 0)).finished == 1
    assert (await ledger.seal(("r", "0"), 0)).started == 0


async def test_an_attempt_that_calls_after_its_seal_is_kept() -> None:
    """A late call counts on its attempt's tally, which other seals do not push out meanwhile."""
    ledger = CallLedger(most_sealed=1)
    ledger.end(ledger.begin(("r", "late")), "ok")
    await ledger.seal(("r", "late"), 0)
    late = ledger.begin(("r", "late"))
    for number in range(3):
        key = ("r", str(number))
        ledger.end(ledger.begin(key), "ok")
        await ledger.seal(key, 0)
    ledger.end(late, "ok")
    assert (await ledger.seal(("r", "late"), 0)).finished == 2
