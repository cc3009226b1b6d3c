"""Collections in a SQL database, through SQLAlchemy Core."""

from agentlightning.store.collections.sql.database import SqlLightningCollections

__all__ = ["SqlLightningCollections"]
