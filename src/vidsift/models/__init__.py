"""Retrieval models: one file per method, over one backbone wrapper."""
