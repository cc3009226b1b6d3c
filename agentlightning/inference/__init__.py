"""Who samples in a training run: the engine of this process, or a model server elsewhere.

`base` is the protocol between an algorithm and a sampler, `connect` finds one by its name. Modules
here need the `rl` extra; import them where training starts.
"""
