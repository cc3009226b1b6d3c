"""Exact history: prompts that repeat the very tokens a model sampled before, not a new rendering.

It needs a tokenizer with a chat template and nothing else of the engine, so whatever feeds a model
server with token ids can use it. Import from its modules; `splicer` is the door.
"""
