"""Metrics and protocols: how well a model retrieves and what it tells apart."""
