"""An index of the three-letter parts of rollouts' ids, where the server has what it takes.

Without it, looking for a part of an id reads all rollouts.
"""

from __future__ import annotations

import logging
from typing import Final

from asyncpg import PostgresError
from sqlalchemy import text

from agentlightning.store.collections.sql.postgres_connection import PostgresConnection

logger = logging.getLogger(__name__)

_INDEX: Final = "rollouts_id_parts"
_PRESENT: Final = text(
    f"SELECT FROM pg_indexes WHERE schemaname = current_schema() AND indexname = '{_INDEX}'"
)
_AVAILABLE: Final = text("SELECT FROM pg_available_extensions WHERE name = 'pg_trgm'")
_HOME: Final = text(
    "SELECT quote_ident(nspname) FROM pg_extension e "
    "JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'pg_trgm'"
)


def index_parts(executor: PostgresConnection) -> None:
    """Create the index if it can be had and is not there, in the transaction at hand."""
    if executor.select(_PRESENT) or not executor.select(_AVAILABLE):
        return
    # Stores in other schemas share the extension.
    executor.lock("extension")
    try:
        with executor.savepoint():
            executor.run("CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public")
            ((home,),) = executor.select(_HOME)
            executor.run(
                f"CREATE INDEX {_INDEX} ON rollouts USING gin (rollout_id {home}.gin_trgm_ops)"
            )
    except PostgresError:
        logger.info("no index of the parts of ids", exc_info=True)
