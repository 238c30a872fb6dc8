"""Captures many events as fast as it can, and then waits for as long as the contender wants to hand them over.

    python stream.py CONTENDER URL COUNT

Prints one JSON object: when the first capture began (`time.monotonic`, which every process of a machine shares), how
long capturing took, how many events the contender says it dropped.
"""

from __future__ import annotations

import json
import sys
import time

telemetry = __import__(f"contender_{sys.argv[1]}")
count = int(sys.argv[3])
telemetry.load()
telemetry.setup(sys.argv[2], 2 * count)
properties = {"command": "build", "ok": True, "targets": 3, "board": "a board with a name", "layers": 4}
began = time.monotonic()
for _ in range(count):
    telemetry.capture("streamed", properties)
captured = time.monotonic()
telemetry.drain()
print(json.dumps({"began": began, "capturing": captured - began, "dropped": telemetry.dropped()}), flush=True)
