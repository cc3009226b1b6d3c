"""The wire formats that calls are captured in: `base` and one module per format."""
