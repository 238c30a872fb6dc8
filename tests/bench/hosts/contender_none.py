"""The same program without telemetry: what everything else is compared with."""

from __future__ import annotations


def load(): ...


def setup(url, room=0): ...


def capture(name, properties): ...


def capture_exception(error): ...


def drain(): ...


def dropped():
    return 0
