"""The smallest command-line program: two events, nothing else.

python cli_bare.py CONTENDER URL
"""

from __future__ import annotations

import sys

telemetry = __import__(f"contender_{sys.argv[1]}")
telemetry.load()
telemetry.setup(sys.argv[2])
telemetry.capture("run started", {"command": "build", "verbose": False, "targets": 3})
telemetry.capture("run ended", {"command": "build", "ok": True, "warnings": 2})
