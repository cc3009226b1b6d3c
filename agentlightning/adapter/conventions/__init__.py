"""Semantic conventions of model calls, one module each: `read(span)` gives the call or None.

A span is recognised by its attributes alone; its name plays no part.
"""
