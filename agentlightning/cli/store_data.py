"""`agl store copy`, `check`, `stats`, `prune` and `export-otlp`: the data of any store."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import click

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.store.check import CheckReport
    from agentlightning.store.retention import RetentionPolicy, RetentionReport
    from agentlightning.store.transfer import CopyReport
    from agentlightning.utils.otlp_export import OtlpExportReport

__all__ = ["check", "copy", "export_otlp", "prune", "stats"]

_token = click.option("--token", help="What the server of an http:// store asks for.")


@asynccontextmanager
async def _opened(url: str, token: str | None) -> AsyncGenerator[LightningStore]:
    from agentlightning.store.url import open_store

    store = open_store(url, token=token)
    try:
        yield store
    finally:
        await store.close()


class _Progress:
    """One line that counts up on a terminal; elsewhere, one line for each phase."""

    def __init__(self) -> None:
        self._phase = ""
        self._count = 0
        self._live = sys.stderr.isatty()

    def __call__(self, phase: str, count: int) -> None:
        if phase != self._phase:
            self.close()
        self._phase, self._count = phase, count
        if self._live:
            click.echo(f"\r{phase} {count}", nl=False, err=True)

    def close(self) -> None:
        """End the last phase's line."""
        if self._phase:
            click.echo("" if self._live else f"{self._phase} {self._count}", err=True)
            self._phase = ""


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--merge", is_flag=True, help="Copy into a store that holds something already.")
@click.option("--source-token", help="What the server of an http:// source asks for.")
@click.option("--target-token", help="What the server of an http:// target asks for.")
def copy(
    source: str, target: str, merge: bool, source_token: str | None, target_token: str | None
) -> int:
    """Copy everything in the store SOURCE into the store TARGET, and compare the two.

    Both are URLs. Nobody should write to SOURCE meanwhile. A copy that was interrupted is
    finished by the same command.
    """
    report = asyncio.run(_copy(source, target, merge, (source_token, target_token)))
    how = ", finishing an interrupted copy" if report.resumed else ""
    click.echo(f"copied and verified{how}")
    for kind, count in report.counts.items():
        digest = report.fingerprints[kind]
        click.echo(f"  {kind:<18}{count:>10}  {report.written[kind]:>10} written  {digest}")
    return 0


async def _copy(
    source: str, target: str, merge: bool, tokens: tuple[str | None, str | None]
) -> CopyReport:
    from agentlightning.store.transfer import copy_store

    progress = _Progress()
    try:
        async with _opened(source, tokens[0]) as old, _opened(target, tokens[1]) as new:
            return await copy_store(old, new, merge=merge, name=source, progress=progress)
    finally:
        progress.close()


@click.command()
@click.argument("url")
@click.option("--repair", is_flag=True, help="Repair what can be without losing anything.")
@click.option(
    "--grace-seconds",
    type=click.FloatRange(0),
    default=3600.0,
    show_default=True,
    help="Silence after which an open attempt of an ended rollout is ended by --repair.",
)
@_token
def check(url: str, repair: bool, grace_seconds: float, token: str | None) -> int:
    """Look for inconsistencies in the store URL; exit with 1 when serious ones remain."""
    report = asyncio.run(_check(url, repair, grace_seconds, token))
    for finding in report.repaired:
        click.echo(f"repaired  {finding.code}  {'/'.join(finding.subject)}  {finding.text}")
    for finding in report.findings:
        weight = "serious" if finding.serious else "note"
        hint = " (--repair mends it)" if finding.repairable and not repair else ""
        click.echo(f"{weight}  {finding.code}  {'/'.join(finding.subject)}  {finding.text}{hint}")
    serious = sum(finding.serious for finding in report.findings)
    click.echo(
        f"{report.rollouts} rollouts, {report.attempts} attempts: {serious} serious, "
        f"{len(report.findings) - serious} notes, {len(report.repaired)} repaired"
    )
    return 0 if report.is_sound else 1


async def _check(url: str, repair: bool, grace_seconds: float, token: str | None) -> CheckReport:
    from agentlightning.store.check import check_store

    async with _opened(url, token) as store:
        return await check_store(store, repair=repair, grace_seconds=grace_seconds)


@click.command()
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@_token
def stats(url: str, as_json: bool, token: str | None) -> int:
    """Show how much is in the store URL."""
    counts = asyncio.run(_stats(url, token))
    if as_json:
        click.echo(json.dumps(counts))
        return 0
    for name, value in counts.items():
        shown = value
        if isinstance(value, dict):
            parts = cast("dict[str, int]", value)
            shown = ", ".join(f"{key} {n}" for key, n in parts.items()) or "none"
        click.echo(f"{name:<24}{shown}")
    return 0


async def _stats(url: str, token: str | None) -> dict[str, Any]:
    async with _opened(url, token) as store:
        return {**await store.statistics()}


@click.command()
@click.argument("url")
@click.option("--keep-seconds", type=click.FloatRange(0), help="Keep what ended since.")
@click.option("--keep-rollouts", type=click.IntRange(0), help="Keep the newest so many.")
@click.option("--keep-bytes", type=click.IntRange(0), help="Keep the newest with so many bytes.")
@click.option(
    "--what", type=click.Choice(["spans", "rollouts"]), default="spans", show_default=True
)
@click.option(
    "--metadata",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only rollouts with this in their metadata, such as run_id=...; repeatable.",
)
@click.option("--mark-read", is_flag=True, help="First mark all of these that ended as read.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed.")
@_token
def prune(  # noqa: PLR0913 - one parameter per option.
    url: str,
    keep_seconds: float | None,
    keep_rollouts: int | None,
    keep_bytes: int | None,
    what: Literal["spans", "rollouts"],
    pairs: tuple[str, ...],
    mark_read: bool,
    dry_run: bool,
    token: str | None,
) -> int:
    """Remove what has ended and was read from the store URL, as far as the limits say.

    Algorithms mark rollouts as read when they need them no more; what is not marked stays.
    """
    from agentlightning.store.retention import RetentionPolicy

    if keep_seconds is None and keep_rollouts is None and keep_bytes is None:
        raise click.UsageError("Give --keep-seconds, --keep-rollouts or --keep-bytes.")
    if mark_read and dry_run:
        raise click.UsageError("--mark-read changes the store; it does not go with --dry-run.")
    policy = RetentionPolicy(
        keep_seconds=keep_seconds,
        keep_rollouts=keep_rollouts,
        keep_bytes=keep_bytes,
        what=what,
        metadata=_metadata(pairs),
    )
    report = asyncio.run(_prune(url, policy, mark_read, dry_run, token))
    removed = (
        f"the spans of {report.rollouts} rollouts"
        if what == "spans"
        else (f"{report.rollouts} rollouts")
    )
    click.echo(f"{'would remove' if dry_run else 'removed'} {removed}")
    if report.spans:
        click.echo(f"{report.spans} spans went")
    if report.unread:
        click.echo(f"{report.unread} more are beyond the limits but not marked read, and stay")
    return 0


async def _prune(
    url: str, policy: RetentionPolicy, mark_read: bool, dry_run: bool, token: str | None
) -> RetentionReport:
    async with _opened(url, token) as store:
        if mark_read:
            await store.mark_read(await _ended(store, policy))
        return await store.apply_retention(policy, dry_run=dry_run)


async def _ended(store: LightningStore, policy: RetentionPolicy) -> Sequence[str]:
    """Return the ids of the ended rollouts that a policy is about."""
    from agentlightning.store.collections.filtering import has_pairs
    from agentlightning.store.transfer import read_records

    found: list[str] = []
    async for records in read_records(store, "rollouts"):
        for rollout in map(json.loads, records):
            ended = rollout["status"] in {"succeeded", "failed", "cancelled"}
            if ended and has_pairs(rollout["metadata"], policy.metadata):
                found.append(rollout["rollout_id"])
    return found


@click.command("export-otlp")
@click.argument("url")
@click.argument("endpoint")
@click.option("--rollout", "rollouts", multiple=True, help="Only this rollout; repeatable.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Sent with each request, such as an API key; repeatable.",
)
@_token
def export_otlp(
    url: str,
    endpoint: str,
    rollouts: tuple[str, ...],
    headers: tuple[str, ...],
    token: str | None,
) -> int:
    """Send the spans in the store URL to the OpenTelemetry backend at ENDPOINT.

    ENDPOINT takes OTLP over HTTP, such as http://localhost:4318. Spans that are sent again keep
    their ids. The exit status is 1 when the backend refused any for good.
    """
    pairs = {name: value for name, _, value in (header.partition("=") for header in headers)}
    report = asyncio.run(_export(url, endpoint, rollouts, pairs, token))
    click.echo(f"sent {report.spans} spans of {report.rollouts} rollouts")
    for message in report.messages:
        click.echo(message, err=True)
    if report.rejected:
        click.echo(f"{report.rejected} spans were refused", err=True)
    return 1 if report.rejected else 0


async def _export(
    url: str,
    endpoint: str,
    rollouts: Sequence[str],
    headers: dict[str, str],
    token: str | None,
) -> OtlpExportReport:
    from agentlightning.utils.otlp_export import export_otlp as send

    progress = _Progress()
    try:
        async with _opened(url, token) as store:
            return await send(
                store,
                endpoint,
                rollout_ids=rollouts or None,
                headers=headers,
                on_progress=lambda report: progress("spans", report.spans),
            )
    finally:
        progress.close()


def _metadata(pairs: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` pairs as a dict; values are JSON where they are, else texts."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, mark, text = pair.partition("=")
        if not mark:
            raise click.UsageError(f"--metadata {pair!r}: write KEY=VALUE.")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text
    return found
