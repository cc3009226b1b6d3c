"""Routes for moving whole stores and for removing what is no longer needed."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from agentlightning.store.http.exchange import Exchange
from agentlightning.store.http.operation import Operation
from agentlightning.store.retention import RetentionPolicy, RetentionReport

__all__ = ["OPERATIONS"]


class ExportRequest(BaseModel):
    """Which records to give."""

    kind: str
    after: str | None = None
    """`next` of the page before."""
    limit: int = 1000


class ExportedRecords(BaseModel):
    """Records of one kind, each as one JSON text."""

    kind: str
    records: list[str]
    next: str | None
    """Where the following page begins; null after the last."""


class ImportRequest(BaseModel):
    """Records to store as they are."""

    kind: str
    records: Annotated[list[str], Field(max_length=100_000)]


class ImportAnswer(BaseModel):
    """How many records were new or different."""

    changed: int


class ReadRequest(BaseModel):
    """Rollouts of which everything that is needed has been read."""

    rollout_ids: list[str]


class ReadAnswer(BaseModel):
    """How many of them are marked now."""

    marked: int


class RetentionRequest(BaseModel):
    """What to keep."""

    policy: RetentionPolicy
    dry_run: bool = False


async def export_records(exchange: Exchange) -> dict[str, Any]:
    """Return a page of records."""
    body = exchange.parse(ExportRequest)
    page = await exchange.store.export_records(body.kind, after=body.after, limit=body.limit)
    return {"kind": page.kind, "records": page.records, "next": page.next}


async def import_records(exchange: Exchange) -> dict[str, int]:
    """Store records of another store."""
    body = exchange.parse(ImportRequest)
    return {"changed": await exchange.store.import_records(body.kind, body.records)}


async def mark_read(exchange: Exchange) -> dict[str, int]:
    """Let policies remove rollouts."""
    ids = exchange.parse(ReadRequest).rollout_ids
    return {"marked": await exchange.store.mark_read(ids)}


async def apply_retention(exchange: Exchange) -> RetentionReport:
    """Remove what a policy no longer keeps."""
    body = exchange.parse(RetentionRequest)
    return await exchange.store.apply_retention(body.policy, dry_run=body.dry_run)


def _post(path: str, handler: Any, summary: str, takes: Any, returns: Any) -> Operation:
    return Operation(
        method="POST", path=path, handler=handler, summary=summary, takes=takes, returns=returns
    )


OPERATIONS: Final = (
    _post("/records/export", export_records, "Get records", ExportRequest, ExportedRecords),
    _post("/records/import", import_records, "Store records", ImportRequest, ImportAnswer),
    _post("/retention/read", mark_read, "Mark rollouts as read", ReadRequest, ReadAnswer),
    _post(
        "/retention/apply",
        apply_retention,
        "Remove what a policy no longer keeps",
        RetentionRequest,
        RetentionReport,
    ),
)
