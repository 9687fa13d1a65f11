"""Losses as pure functions of score matrices."""
