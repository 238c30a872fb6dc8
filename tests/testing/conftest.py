"""A capture server that leaves no thread behind."""

from __future__ import annotations

from support_capture_server import server

__all__ = ["server"]
