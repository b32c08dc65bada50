"""Watch a model while it is trained: a probe that is on for one step in many."""

from __future__ import annotations

from varprobe.monitoring.monitor import Monitor

__all__ = ["Monitor"]
