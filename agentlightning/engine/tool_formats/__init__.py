"""Ways of writing tool calls: one small parser for each family of models.

Pure functions of text and of the tools that were offered. `tools` registers them; import from its
modules.
"""
