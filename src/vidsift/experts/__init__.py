"""Experts: what besides one picture tower can be known of a clip, each run once and kept in a store."""

from vidsift.experts.base import ExpertSource, Findings
from vidsift.experts.opening import EXPERTS, open_expert

__all__ = ["EXPERTS", "ExpertSource", "Findings", "open_expert"]
