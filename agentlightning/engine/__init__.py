"""The embedded inference engine: token-exact chat completions from a model in this process.

Modules here need the `rl` extra (torch, transformers); import them where they are used, never at
import time of code that must run without it. The engine never trains: it samples from a module
that somebody else may train while the engine is paused.
"""
