"""Tests that need more than this repository: each is run by a target of the Makefile of its own."""
