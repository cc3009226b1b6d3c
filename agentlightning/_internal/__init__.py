"""Small pieces each named for its subject; nothing here is public."""
