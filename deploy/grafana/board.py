"""A dashboard as a value."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import stat, timeseries


@dataclass(frozen=True)
class Board:
    """One dashboard; its panels fill rows 24 units wide, from left to right."""

    name: str
    title: str
    description: str
    panels: tuple[stat.Panel | timeseries.Panel, ...]
