"""Instrumentation: making libraries say what they do, or carry context; one module each.

Nothing here is switched on by importing it.
"""
