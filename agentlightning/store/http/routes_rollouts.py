"""Routes of rollouts and of their attempts."""

from __future__ import annotations

from typing import Any, Final

from agentlightning.errors import NotFoundError
from agentlightning.store.http.exchange import Exchange
from agentlightning.store.http.operation import Operation
from agentlightning.store.http.schemas import (
    AttemptSearch,
    AttemptUpdate,
    FailRequest,
    FinishRequest,
    RolloutSearch,
    RolloutUpdate,
    Search,
    StartAttemptRequest,
    StartRequest,
    reject_nulls,
)
from agentlightning.store.http.wire import page_body
from agentlightning.types import Attempt, AttemptedRollout, PaginatedResult, Rollout

__all__ = ["OPERATIONS"]


async def start_rollout(exchange: Exchange) -> AttemptedRollout:
    """Create a rollout with its first attempt, past the queue."""
    body = exchange.parse(StartRequest)
    fields = {name: getattr(body, name) for name in _START_FIELDS}
    return await exchange.store.start_rollout(**fields, **body.given(*_NEW_START_FIELDS))


# Compat 0.3.0: stores of users lack the newer parameters, so those only travel when given.
_NEW_START_FIELDS: Final = ("rollout_id", "lease_seconds")
_START_FIELDS: Final = tuple(set(StartRequest.model_fields) - set(_NEW_START_FIELDS))


async def list_rollouts(exchange: Exchange) -> dict[str, Any]:
    """List rollouts by a query string."""
    return await _rollouts(exchange, exchange.parse_query(RolloutSearch))


async def search_rollouts(exchange: Exchange) -> dict[str, Any]:
    """List rollouts by a JSON query."""
    return await _rollouts(exchange, exchange.parse_optional(RolloutSearch))


async def _rollouts(exchange: Exchange, search: RolloutSearch) -> dict[str, Any]:
    found = await exchange.store.query_rollouts(**search.checked())
    return page_body(found, search.limit, search.offset)


async def get_rollout(exchange: Exchange) -> Rollout:
    """Return one rollout with its latest attempt."""
    rollout_id = exchange.path["rollout_id"]
    rollout = await exchange.store.get_rollout_by_id(rollout_id)
    if rollout is None:
        raise NotFoundError(f"Rollout {rollout_id!r} is unknown.")
    return rollout


async def update_rollout(exchange: Exchange) -> Rollout:
    """Change the given fields of a rollout."""
    body = exchange.parse_optional(RolloutUpdate)
    reject_nulls(body, "status", "config")
    rollout = await exchange.store.update_rollout(
        exchange.path["rollout_id"], **_given(body, RolloutUpdate)
    )
    exchange.site.work_came()
    return rollout


async def start_attempt(exchange: Exchange) -> AttemptedRollout:
    """Begin another attempt."""
    body = exchange.parse_optional(StartAttemptRequest)
    return await exchange.store.start_attempt(
        exchange.path["rollout_id"], body.worker_id, **body.given("attempt_id", "lease_seconds")
    )


async def list_attempts(exchange: Exchange) -> dict[str, Any]:
    """List the attempts of a rollout by a query string."""
    return await _attempts(exchange, exchange.parse_query(AttemptSearch))


async def search_attempts(exchange: Exchange) -> dict[str, Any]:
    """List the attempts of a rollout by a JSON query."""
    return await _attempts(exchange, exchange.parse_optional(AttemptSearch))


async def _attempts(exchange: Exchange, search: Search) -> dict[str, Any]:
    found = await exchange.store.query_attempts(exchange.path["rollout_id"], **search.checked())
    return page_body(found, search.limit, search.offset)


async def latest_attempt(exchange: Exchange) -> Attempt | None:
    """Return the attempt with the highest sequence id, or null."""
    return await exchange.store.get_latest_attempt(exchange.path["rollout_id"])


async def update_attempt(exchange: Exchange) -> Attempt:
    """Change the given fields of an attempt."""
    body = exchange.parse_optional(AttemptUpdate)
    reject_nulls(body, *AttemptUpdate.model_fields)
    attempt = await exchange.store.update_attempt(
        exchange.path["rollout_id"],
        exchange.path["attempt_id"],
        **_given(body, AttemptUpdate),
    )
    # An attempt that failed may have its rollout tried again.
    exchange.site.work_came()
    return attempt


def _given(body: RolloutUpdate | AttemptUpdate, model: type[Any]) -> dict[str, Any]:
    return {n: getattr(body, n) for n in model.model_fields if n in body.model_fields_set}


async def finish_rollout(exchange: Exchange) -> Rollout:
    """Settle an attempt as succeeded."""
    body = exchange.parse_optional(FinishRequest)
    return await exchange.store.finish_rollout(
        exchange.path["rollout_id"],
        exchange.path.get("attempt_id") or body.attempt_id,
        reward=body.reward,
        output=body.output,
    )


async def fail_rollout(exchange: Exchange) -> Rollout:
    """Settle an attempt as failed."""
    body = exchange.parse_optional(FailRequest)
    rollout = await exchange.store.fail_rollout(
        exchange.path["rollout_id"],
        exchange.path.get("attempt_id") or body.attempt_id,
        error=body.error,
    )
    exchange.site.work_came()
    return rollout


_ROLLOUT: Final = "/rollouts/{rollout_id}"
_ATTEMPT: Final = "/rollouts/{rollout_id}/attempts/{attempt_id}"
_ANY_ROLLOUT: Final = AttemptedRollout | Rollout
_ROLLOUT_PAGE: Final = PaginatedResult[_ANY_ROLLOUT]

OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/rollouts",
        handler=start_rollout,
        summary="Start a rollout past the queue",
        takes=StartRequest,
        returns=AttemptedRollout,
        status=201,
        replayable=True,
    ),
    Operation(
        method="GET",
        path="/rollouts",
        handler=list_rollouts,
        summary="List rollouts",
        takes=RolloutSearch,
        returns=_ROLLOUT_PAGE,
    ),
    Operation(
        method="POST",
        path="/rollouts/search",
        handler=search_rollouts,
        summary="List rollouts by a JSON query",
        takes=RolloutSearch,
        returns=_ROLLOUT_PAGE,
    ),
    Operation(
        method="GET",
        path=_ROLLOUT,
        handler=get_rollout,
        summary="Get one rollout with its latest attempt",
        returns=_ANY_ROLLOUT,
    ),
    Operation(
        method="POST",
        path=_ROLLOUT,
        handler=update_rollout,
        summary="Change fields of a rollout",
        takes=RolloutUpdate,
        returns=Rollout,
    ),
    Operation(
        method="POST",
        path=_ROLLOUT + "/attempts",
        handler=start_attempt,
        summary="Begin another attempt",
        takes=StartAttemptRequest,
        returns=AttemptedRollout,
        status=201,
        replayable=True,
    ),
    Operation(
        method="GET",
        path=_ROLLOUT + "/attempts",
        handler=list_attempts,
        summary="List the attempts of a rollout",
        takes=AttemptSearch,
        returns=PaginatedResult[Attempt],
    ),
    Operation(
        method="POST",
        path=_ROLLOUT + "/attempts/search",
        handler=search_attempts,
        summary="List the attempts of a rollout by a JSON query",
        takes=AttemptSearch,
        returns=PaginatedResult[Attempt],
    ),
    Operation(
        method="GET",
        path=_ROLLOUT + "/attempts/latest",
        handler=latest_attempt,
        summary="Get the latest attempt of a rollout",
        returns=Attempt | None,
    ),
    Operation(
        method="POST",
        path=_ATTEMPT,
        handler=update_attempt,
        summary="Change fields of an attempt",
        takes=AttemptUpdate,
        returns=Attempt,
    ),
    *(
        Operation(
            method="POST",
            path=path + suffix,
            handler=handler,
            summary=summary,
            takes=takes,
            returns=Rollout,
        )
        for path in (_ROLLOUT, _ATTEMPT, _ROLLOUT + "/attempt/{attempt_id}")
        for suffix, handler, takes, summary in (
            ("/finish", finish_rollout, FinishRequest, "Settle an attempt as succeeded"),
            ("/fail", fail_rollout, FailRequest, "Settle an attempt as failed"),
        )
    ),
    *(
        Operation(
            method="POST",
            path=_ROLLOUT + alias,
            handler=start_attempt,
            summary="Begin another attempt",
            takes=StartAttemptRequest,
            returns=AttemptedRollout,
            status=201,
            replayable=True,
        )
        for alias in ("/start", "/attempt")
    ),
)
