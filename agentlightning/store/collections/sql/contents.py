"""Long values, kept once per content: split in pieces that are named by their hash.

Values are split from their start, in pieces of one length, so that values with a common beginning
(the prompts of one conversation) share its pieces. `content_owners` says which rollouts use a
piece; those that none uses are removed with the last span that did.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from sqlalchemy import bindparam, delete, select

from agentlightning.store.collections.sql.schema import content_owners, contents
from agentlightning.store.collections.sql.statement import Executor, Statement, in_list, insert_new

LONG: Final = 1024
"""Characters beyond which a value is kept apart, and the length of a piece."""
_BATCH: Final = 5000
_KEPT: Final = 50_000
CONTENTS_LOCK: Final = "contents"
"""Held by whoever adds contents, shared, and by whoever removes them, alone."""

_c = contents.c
_o = content_owners.c
_INSERT: Final = insert_new(contents, "name", "data")
_OWN: Final = insert_new(content_owners, "rollout_id", "name")
_LOAD: Final = Statement(select(_c.name, _c.data).where(in_list(_c.name, "names")), "names")
_OWNED: Final = Statement(select(_o.name).where(_o.rollout_id == bindparam("owner")), "owner")
_DISOWN: Final = Statement(
    delete(content_owners).where(_o.rollout_id == bindparam("owner")), "owner"
)
_COLLECT: Final = Statement(
    delete(contents).where(
        in_list(_c.name, "names"),
        ~select(_o.name).where(_o.name == _c.name).exists(),
    ),
    "names",
)


def name_of(text: str) -> str:
    """Return the name of a content: 20 characters that stand for nothing else."""
    digest = hashlib.blake2b(text.encode(), digest_size=15).digest()
    return base64.urlsafe_b64encode(digest).decode()


class ContentSink:
    """Contents on their way into the database, and which of them are known to be there.

    Perf: what a writer has just stored need not be offered to the database again.
    """

    def __init__(self) -> None:
        self._new: dict[str, str] = {}
        self._owners: dict[tuple[str, str], None] = {}
        self._known: dict[tuple[str, str], None] = {}

    def put(self, rollout_id: str, text: str) -> list[str]:
        """Keep a value for a rollout; return the names of its pieces."""
        names: list[str] = []
        for start in range(0, len(text), LONG):
            piece = text[start : start + LONG]
            name = name_of(piece)
            names.append(name)
            owner = (rollout_id, name)
            if owner not in self._known:
                self._owners[owner] = None
                self._new[name] = piece
        return names

    def take(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return what was put, names with texts and owners with names, and forget it."""
        new, owners = list(self._new.items()), list(self._owners)
        self._new.clear()
        self._owners.clear()
        return new, owners

    def flush(self, executor: Executor) -> None:
        """Write what was put."""
        if not self._owners:
            return
        executor.lock(CONTENTS_LOCK, shared=True)
        # In one order everywhere, so that two writers cannot wait for each other.
        executor.change_many(_INSERT, sorted(self._new.items()))
        executor.change_many(_OWN, sorted(self._owners))
        self._known.update(self._owners)
        excess = len(self._known) - _KEPT
        for owner in list(islice(self._known, max(excess, 0))):
            del self._known[owner]
        self._new.clear()
        self._owners.clear()

    def forget(self) -> None:
        """Drop what is known and what was put: the transaction is gone, or others may write."""
        self._new.clear()
        self._owners.clear()
        self._known.clear()


def load(executor: Executor, names: Iterable[str]) -> Mapping[str, str]:
    """Return contents by name."""
    wanted = list(names)
    found: dict[str, str] = {}
    for start in range(0, len(wanted), _BATCH):
        batch = executor.array(wanted[start : start + _BATCH])
        found.update(executor.rows(_LOAD, (batch,)))
    return found


def release(executor: Executor, rollout_id: str) -> None:
    """Give up a rollout's contents, and remove those that nobody else uses."""
    names = [name for (name,) in executor.rows(_OWNED, (rollout_id,))]
    if not names:
        return
    executor.lock(CONTENTS_LOCK)
    executor.change(_DISOWN, (rollout_id,))
    for start in range(0, len(names), _BATCH):
        executor.change(_COLLECT, (executor.array(names[start : start + _BATCH]),))
