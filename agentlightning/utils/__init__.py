"""Public utilities under the names that 0.3.0 gave them."""
