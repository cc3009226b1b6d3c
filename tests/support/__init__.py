"""Things several test rooms need: small models and the like; holds no tests."""
