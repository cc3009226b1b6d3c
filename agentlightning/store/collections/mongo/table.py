"""One collection of records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from pymongo import DeleteOne, UpdateOne

from agentlightning.errors import NotFoundError
from agentlightning.store.collections.base import Collection, DuplicatedPrimaryKeyError
from agentlightning.store.collections.codec import decode
from agentlightning.store.collections.filtering import (
    check_page,
    compile_filter,
    page,
    sort_records,
)
from agentlightning.store.collections.kinds import offset_after
from agentlightning.store.collections.mongo.block import Block, Runner
from agentlightning.store.collections.mongo.condition import all_of, mongo_filter, mongo_order
from agentlightning.store.collections.mongo.document import content, id_of, key_of, new_document
from agentlightning.store.collections.mongo.layout import Document, RecordLayout
from agentlightning.store.record import replace
from agentlightning.types import FilterOptions, PaginatedResult, SortOptions

M = TypeVar("M", bound=BaseModel)

_PROJECTION: Final = {"_id": 0, "payload": 1, "v": 1}
_BATCH: Final = 500


class MongoCollection(Collection[M]):
    """Records as `layout` keeps them."""

    def __init__(self, layout: RecordLayout[M], run: Runner) -> None:
        self._layout = layout
        self._run = run

    def primary_keys(self) -> Sequence[str]:
        return self._layout.keys

    def item_type(self) -> type[M]:
        return self._layout.model

    def _check_type(self, items: Sequence[M]) -> None:
        for item in items:
            if not isinstance(item, self._layout.model):
                raise TypeError(
                    f"The collection holds {self._layout.model.__name__}, "
                    f"not {type(item).__name__}."
                )

    def _key_query(self, block: Block, item: M) -> Document:
        return {"_id": id_of(block.opened.partition, key_of(self._layout, item))}

    def _decode(self, block: Block, found: Document) -> M:
        record = decode(self._layout.model, found["payload"])
        if self._layout.guarded and not block.direct:
            block.note(self._layout.name, key_of(self._layout, record), found["v"])
        return record

    async def size(self) -> int:
        async def work(block: Block) -> int:
            return await block.collection(self._layout.name).count_documents(
                block.mine(), session=block.session
            )

        return await self._run(work, write=False)

    async def query(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[M]:
        check_page(limit, offset)
        required, complete = mongo_filter(self._layout, filter)
        order = mongo_order(self._layout, sort)

        async def work(block: Block) -> PaginatedResult[M]:
            where = block.mine(**all_of(required))
            if not complete or order is None:
                records = await self._find(block, where, ([("o", 1)], None))
                test = compile_filter(filter)
                matching = [record for record in records if test is None or test(record)]
                return page(sort_records(matching, self._layout.model, sort), limit, offset)
            items = await self._find(block, where, order, limit, offset) if limit else []
            total = len(items)
            if limit != -1 or offset:
                total = await block.collection(self._layout.name).count_documents(
                    where, session=block.session
                )
            return PaginatedResult[Any].model_construct(
                items=items, limit=limit, offset=offset, total=total
            )

        return await self._run(work, write=False)

    async def _find(
        self,
        block: Block,
        where: Document,
        order: tuple[list[tuple[str, int]], Document | None],
        limit: int = -1,
        offset: int = 0,
    ) -> list[M]:
        terms, added = order
        collection = block.collection(self._layout.name)
        if added is None:
            cursor = collection.find(
                where,
                _PROJECTION,
                sort=terms,
                skip=offset,
                limit=max(limit, 0),
                session=block.session,
            )
            return [self._decode(block, found) async for found in cursor]
        steps: list[Document] = [{"$match": where}, {"$set": added}, {"$sort": dict(terms)}]
        if offset:
            steps.append({"$skip": offset})
        if limit != -1:
            steps.append({"$limit": limit})
        steps.append({"$project": _PROJECTION})
        found = await collection.aggregate(steps, session=block.session, allowDiskUse=True)
        return [self._decode(block, document) async for document in found]

    async def get(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
    ) -> M | None:
        key = self._whole_key(filter)

        async def work(block: Block) -> M | None:
            if key is not None:
                return (await self._by_keys(block, [key])).get(key)
            required, complete = mongo_filter(self._layout, filter)
            order = mongo_order(self._layout, sort)
            if not complete or order is None:
                found = await self.query(filter, sort, limit=1)
                return found[0] if found else None
            records = await self._find(block, block.mine(**all_of(required)), order, limit=1)
            return records[0] if records else None

        return await self._run(work, write=False)

    async def by_keys(self, keys: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], M]:
        """Return the records that exist, by their keys; a step remembers what was not there."""
        return await self._run(lambda block: self._by_keys(block, keys), write=False)

    async def among(self, field: str, values: Sequence[str]) -> list[M]:
        """Return the records whose field has one of the values, in no order.

        Perf: asked for an order too, a server may read all records in that order instead.
        """

        async def work(block: Block) -> list[M]:
            found: list[M] = []
            for start in range(0, len(values), _BATCH):
                wanted = {"$in": list(values[start : start + _BATCH])}
                cursor = block.collection(self._layout.name).find(
                    block.mine(**{field: wanted}), _PROJECTION, session=block.session
                )
                found.extend([self._decode(block, document) async for document in cursor])
            return found

        return await self._run(work, write=False)

    async def _by_keys(
        self, block: Block, keys: Sequence[tuple[Any, ...]]
    ) -> dict[tuple[Any, ...], M]:
        found: dict[tuple[Any, ...], M] = {}
        for start in range(0, len(keys), _BATCH):
            ids = [id_of(block.opened.partition, key) for key in keys[start : start + _BATCH]]
            cursor = block.collection(self._layout.name).find(
                {"_id": {"$in": ids}}, _PROJECTION, session=block.session
            )
            async for document in cursor:
                record = self._decode(block, document)
                found[key_of(self._layout, record)] = record
        if self._layout.guarded and not block.direct:
            for key in keys:
                if key not in found:
                    block.note(self._layout.name, key, None)
        return found

    def _whole_key(self, options: FilterOptions | None) -> tuple[str, ...] | None:
        """Return the key that a filter asks for, if it asks for nothing else."""
        given = options or {}
        if set(given) != set(self._layout.keys):
            return None
        key = tuple(given[name].get("exact") for name in self._layout.keys)
        plain = all(len(operations) == 1 for operations in given.values())
        return key if plain and all(isinstance(value, str) for value in key) else None

    async def scan(self, after: str | None = None, limit: int = 1000) -> Sequence[tuple[str, M]]:
        start = offset_after(after)

        async def work(block: Block) -> list[tuple[str, M]]:
            cursor = block.collection(self._layout.name).find(
                block.mine(o={"$gt": start}),
                {**_PROJECTION, "o": 1},
                sort=[("o", 1)],
                limit=limit,
                session=block.session,
            )
            return [(str(found["o"]), self._decode(block, found)) async for found in cursor]

        return await self._run(work, write=False)

    async def insert(self, items: Sequence[M]) -> None:
        self._check_type(items)
        if not items:
            return

        async def work(block: Block) -> None:
            keys = {key_of(self._layout, item) for item in items}
            if len(keys) < len(items) or await self._stored(block, items):
                raise DuplicatedPrimaryKeyError(
                    f"{self._layout.model.__name__} is there already, or is given twice; "
                    "update it instead."
                )
            await self._add(block, items)

        await self._run(work, write=True)

    async def _add(self, block: Block, items: Sequence[M]) -> None:
        first = await block.advance("o", len(items))
        documents = [
            new_document(self._layout, block.opened.partition, item, first + place)
            for place, item in enumerate(items)
        ]
        await block.collection(self._layout.name).insert_many(documents, session=block.session)

    async def _stored(self, block: Block, items: Sequence[M]) -> dict[tuple[Any, ...], M]:
        """Return those of the items that are stored, as stored."""
        return await self._by_keys(block, [key_of(self._layout, item) for item in items])

    async def update(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        self._check_type(items)

        async def work(block: Block, known: dict[tuple[Any, ...], M]) -> list[M]:
            self._check_present(items, known)
            return await self._replace(block, items, known, update_fields)

        return await self._change(items, work)

    async def upsert(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        self._check_type(items)

        async def work(block: Block, known: dict[tuple[Any, ...], M]) -> list[M]:
            new: dict[tuple[Any, ...], M] = {}
            for item in items:
                key = key_of(self._layout, item)
                if key not in known:
                    new.setdefault(key, item)
            if new:
                await self._add(block, list(new.values()))
            return await self._replace(block, items, {**new, **known}, update_fields)

        return await self._change(items, work)

    async def _change(
        self,
        items: Sequence[M],
        work: Callable[[Block, dict[tuple[Any, ...], M]], Awaitable[list[M]]],
    ) -> Sequence[M]:
        if not items:
            return []

        async def change(block: Block) -> list[M]:
            return await work(block, await self._stored(block, items))

        return await self._run(change, write=True)

    def _check_present(self, items: Sequence[M], known: dict[tuple[Any, ...], M]) -> None:
        for item in items:
            key = key_of(self._layout, item)
            if key not in known:
                raise NotFoundError(
                    f"{self._layout.model.__name__} {key} is not there; insert it first."
                )

    async def _replace(
        self,
        block: Block,
        items: Sequence[M],
        known: dict[tuple[Any, ...], M],
        update_fields: Sequence[str] | None,
    ) -> list[M]:
        stored: list[M] = []
        for item in items:
            key = key_of(self._layout, item)
            record = item
            if update_fields is not None:
                taken = {field: getattr(item, field) for field in update_fields}
                record = replace(known[key], **taken)
            known[key] = record
            stored.append(record)
        await block.collection(self._layout.name).bulk_write(
            [
                UpdateOne(
                    self._key_query(block, item),
                    {"$set": content(self._layout, item), "$inc": {"v": 1}},
                )
                for item in stored
            ],
            session=block.session,
        )
        return stored

    async def delete(self, items: Sequence[M]) -> None:
        self._check_type(items)
        if not items:
            return

        async def work(block: Block) -> None:
            self._check_present(items, await self._stored(block, items))
            await block.collection(self._layout.name).bulk_write(
                [DeleteOne(self._key_query(block, item)) for item in items], session=block.session
            )

        await self._run(work, write=True)
