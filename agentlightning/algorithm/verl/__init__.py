"""The face of 0.3.0's `VERL`: its configuration dictionary, on this package's own algorithms."""
