"""The keyword arguments of a capture, for type checkers: apart, because `typing` costs a host."""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = ["CaptureArgs"]


class CaptureArgs(TypedDict, total=False):
    """The keyword arguments of `TelemetryClient.capture`."""

    distinct_id: object
    properties: dict[str, Any] | None
    timestamp: object
    context: dict[str, Any] | None
    uuid: object
    options: dict[str, Any] | None
