"""Collections in Redis or Valkey, through redis-py's asynchronous client."""
