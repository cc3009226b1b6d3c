"""The store in MongoDB: it survives the process, and many processes share it.

With a replica set (or through a router) every step of the store is a transaction, acknowledged by
a majority: it happened as a whole or not at all, whatever dies.

Without one, MongoDB has no transactions. Then one step at a time runs, by a lock in the
partition's document, and notes there what it is about to write before it does; the next one
finishes what a writer that died had begun, after ten seconds in which that gave no sign. So here
too a step happens as a whole or not at all, and no write is lost or doubled. What differs: steps
wait for one another, readers may see half of a step while it is written, what a single server
acknowledged is only as durable as that server, and other processes' changes are noticed by
looking, up to four times a second.

This was tested against SecantusDB, which speaks MongoDB's protocol over the same storage engine,
with and without a replica set's behaviour; no real MongoDB server could be had. Elections,
sharding and lagging secondaries are untested.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode

from agentlightning._internal.clock import now
from agentlightning._internal.ids import generate_id
from agentlightning.errors import ConfigurationError, MissingExtraError
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.collection_based import CollectionBasedLightningStore

__all__ = ["MongoLightningStore"]

DEFAULT_DATABASE: Final = "agentlightning"
DEFAULT_PARTITION: Final = "default"
"""The partition that a URL means when it names none."""


class MongoLightningStore(CollectionBasedLightningStore):
    """A store in a MongoDB database, for any number of threads, event loops and processes.

    The connection is made at the first call, on an event loop of the store's own; an address
    where nobody answers is an error after five seconds (`serverSelectionTimeoutMS`). After a fork
    the child must make its own store. See the module for what holds with and without a replica
    set.

    Args:
        mongo_uri: Where the server is, with pymongo's options. Leave `replicaSet` out for a
            single server.
        mongo_client_kwargs: Options for `pymongo.AsyncMongoClient`, over those of the address.
        database_name: The database; its collections are shared by all partitions.
        partition_id: The name of this store's data in the database. Stores with the same name are
            the same store, in other processes and after a restart too. None makes a new one,
            `pt-` and 12 hex characters, which later runs find only by giving that name.
        tracker: See `CollectionBasedLightningStore`.
        scan_debounce_seconds: See `CollectionBasedLightningStore`.

    Attributes:
        database_name: The database's name.
        partition_id: The partition's name.

    Raises:
        MissingExtraError: pymongo is not installed.
    """

    def __init__(
        self,
        *,
        mongo_uri: str = "mongodb://localhost:27017/?replicaSet=rs0",
        mongo_client_kwargs: Mapping[str, Any] | None = None,
        database_name: str | None = None,
        partition_id: str | None = None,
        tracker: Any = None,
        scan_debounce_seconds: float = 10.0,
    ) -> None:
        try:
            import pymongo as _  # noqa: F401 - only to name the extra where it is missing.
        except ImportError as error:
            raise MissingExtraError("pymongo", "mongo") from error
        from agentlightning.store.collections.mongo import Connection, MongoLightningCollections

        if partition_id == "":
            raise ConfigurationError("partition_id is empty; give it a name, or leave it out.")
        self.database_name = database_name or DEFAULT_DATABASE
        self.partition_id = partition_id or "pt-" + generate_id(12)
        connection = Connection(
            mongo_uri, self.database_name, self.partition_id, mongo_client_kwargs
        )
        super().__init__(
            MongoLightningCollections(connection),
            tracker=tracker,
            scan_debounce_seconds=scan_debounce_seconds,
        )
        if self._watchdog is not None:
            # Attempts may have run out while nobody had the store open.
            self._watchdog.expect(now())

    @classmethod
    def from_url(cls, url: str, **options: Any) -> MongoLightningStore:
        """Return the store that a URL names: `mongodb://host/database?partition=name`.

        Without a database it is `agentlightning`, without a partition `default`: the same URL is
        always the same store. All other parameters are pymongo's.

        Args:
            url: A `mongodb://` or `mongodb+srv://` address.
            options: Further arguments of the class.
        """
        address, _, query = url.partition("?")
        parameters = parse_qsl(query, keep_blank_values=True)
        partition = dict(parameters).get("partition", DEFAULT_PARTITION)
        kept = urlencode([(name, value) for name, value in parameters if name != "partition"])
        scheme, mark, rest = address.partition("://")
        hosts, _, database = rest.partition("/")
        if database and "authsource=" not in kept.lower() and "@" in hosts:
            # The database of an address with a user is where the user is known, too.
            kept = "&".join(filter(None, [kept, urlencode({"authSource": unquote(database)})]))
        return cls(
            mongo_uri=f"{scheme}{mark}{hosts}/" + (f"?{kept}" if kept else ""),
            database_name=unquote(database) or None,
            partition_id=partition,
            **options,
        )

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=True, async_safe=True, zero_copy=True, otlp_traces=False
        )
