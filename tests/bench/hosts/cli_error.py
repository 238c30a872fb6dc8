"""A program that fails: one event, and then an exception that names a home directory and a password.

python cli_error.py CONTENDER URL
"""

from __future__ import annotations

import sys

telemetry = __import__(f"contender_{sys.argv[1]}")


def build(depth):
    """Fail some frames deep."""
    if depth:
        build(depth - 1)
    raise ValueError("cannot read /home/somebody/board.ato: password=hunter2")


telemetry.load()
telemetry.setup(sys.argv[2])
telemetry.capture("run started", {"command": "build", "verbose": False, "targets": 3})
try:
    build(5)
except ValueError as error:
    telemetry.capture_exception(error)
