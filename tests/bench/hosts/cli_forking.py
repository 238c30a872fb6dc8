"""A program that forks fifty times between its two events; each child ends at once.

python cli_forking.py CONTENDER URL
"""

from __future__ import annotations

import os
import sys

telemetry = __import__(f"contender_{sys.argv[1]}")
telemetry.load()
telemetry.setup(sys.argv[2])
telemetry.capture("run started", {"command": "build", "verbose": False, "targets": 3})
for _ in range(50):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
telemetry.capture("run ended", {"command": "build", "ok": True, "warnings": 2})
