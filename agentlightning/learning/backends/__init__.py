"""Train backends: who carries out a training step. `base` has the protocol, one file a kind."""
