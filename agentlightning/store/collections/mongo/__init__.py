"""Collections in a MongoDB database, through pymongo's asynchronous client."""
