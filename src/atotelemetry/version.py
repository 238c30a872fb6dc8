"""The version of this package: in the library's own events, and in `atotelemetry --version`."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.2.0"
