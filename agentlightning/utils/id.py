"""Public face of the id maker, at the place where 0.3.0 had it."""

from agentlightning._internal.ids import generate_id

__all__ = ["generate_id"]
