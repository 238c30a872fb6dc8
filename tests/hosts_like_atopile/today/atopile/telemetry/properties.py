"""The names that the rest of the program imports from here."""

from __future__ import annotations

from atotelemetry import PropertyLoaders, TelemetryProperties, ThinProperties

__all__ = ["PropertyLoaders", "TelemetryProperties", "ThinProperties"]
