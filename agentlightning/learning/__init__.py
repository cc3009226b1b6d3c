"""Learning: rows of tokens in, a better policy out.

`rows` holds the data, `advantages` and `weights` the credit, `losses` the objectives, `packing` and
`logprobs` the forward pass, `step` the training step, `backends` who carries it out. Nothing here
calls a model to sample, talks to a store or knows what an agent is.

Modules that need torch import it; this package file imports nothing.
"""
