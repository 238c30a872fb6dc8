"""`contender_floor.py` with what this project loads of msgspec: the least that handing an event to a process costs."""

from __future__ import annotations

import contender_floor
from contender_floor import capture, capture_exception, drain, dropped, load, setup  # noqa: F401 - a contender's names


def encoder():
    from atotelemetry.host import lazy

    lazy.load("msgspec")
    from msgspec._core import JSONEncoder

    return JSONEncoder().encode


contender_floor.encoder = encoder
