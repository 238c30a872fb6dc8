"""What atopile's module of this name comes down to."""

from __future__ import annotations

from atotelemetry import PropertyLoaders, Telemetry, TelemetryConfig, TelemetryProperties

__all__ = [
    "PropertyLoaders",
    "TelemetryConfig",
    "TelemetryProperties",
    "capture",
    "capture_event",
    "capture_exception",
    "client",
]

_telemetry = Telemetry(app="atopile", api_key="phc_like_atopile", sender_deadline=10.0)

client = _telemetry.client
capture = _telemetry.capture
capture_event = _telemetry.capture_event
capture_exception = _telemetry.capture_exception
