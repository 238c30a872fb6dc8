"""The keyword arguments of a client and of a capture, for type checkers: apart, because `typing` costs a host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["CaptureArgs", "ClientOptions"]


class CaptureArgs(TypedDict, total=False):
    """The keyword arguments of `TelemetryClient.capture`."""

    distinct_id: object
    properties: dict[str, Any] | None
    timestamp: object
    context: dict[str, Any] | None
    uuid: object
    options: dict[str, Any] | None


class ClientOptions(TypedDict, total=False):
    """The options of a client. `Telemetry` has them, too, and explains them."""

    app: str
    app_version: str | None
    queue_size: int
    before_send: Callable[[dict[str, Any]], dict[str, Any] | None] | None
    endpoint: Literal["auto", "capture", "batch"]
    protocol: Literal["v0", "v1"]
    disable_geoip: bool
    historical_migration: bool
    compression: bool | None
    max_retries: int
    request_timeout: float
    sender_deadline: float
    properties: Mapping[str, Any] | None
    run_properties: Sequence[str]
    in_app: Sequence[str]
    source_lines: bool
    scrub: bool | Sequence[str]
    on_error: Callable[[str, int], object] | None
    patient: bool
    wait_for_delivery: bool | None
