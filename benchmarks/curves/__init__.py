"""Learning curves: real fits from several seeds, each beside its negative control."""
