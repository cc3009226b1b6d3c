"""The store over HTTP: a server around any store, and a client that is a store."""
