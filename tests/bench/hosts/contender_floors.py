"""Both floors together: the host's, and a process that does no more than import httpx and msgspec and make one POST."""

from __future__ import annotations

import os
import sys

import contender_floor
from contender_floor import capture, drain, dropped, load

__all__ = ["capture", "capture_exception", "drain", "dropped", "load", "setup"]


def setup(url, room=0):
    floor = os.path.join(os.path.dirname(__file__), "sender_floor.py")
    contender_floor.CHILD = ["-P", "-S", floor, url]
    contender_floor.ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def capture_exception(error):
    capture("$exception", {"$exception_type": type(error).__name__, "$exception_message": str(error)})
