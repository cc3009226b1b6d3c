"""The LightningStore: where rollouts, attempts, spans, resources and workers live."""
