"""Collections in SQL databases: SQLite and PostgreSQL, from the same tables and statements."""
