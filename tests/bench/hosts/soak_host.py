"""A long-lived program that captures at a steady rate, and at its end says what its client counted.

python soak_host.py URL SECONDS EVENTS_PER_SECOND NAME        NAME: patient, or anything else
"""

from __future__ import annotations

import json
import sys
import time

from atotelemetry import TelemetryClient

url, seconds, rate, name = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
client = TelemetryClient("phc_soak", url, app="soak", app_version="1", patient=name == "patient")
began = time.monotonic()
tried = 0
while (now := time.monotonic()) < began + seconds:
    while tried < (now - began) * rate:
        client.capture("soaked", distinct_id=name, properties={"number": tried, "command": "build", "ok": True})
        tried += 1
    time.sleep(1 / rate)
client.flush(60.0, delivered=True)
stats = client.stats
counts = ("captured", "queued", "dropped", "handed_over", "delivered", "lost", "on_the_way")
reasons = {"dropped_by_reason": stats.dropped_by_reason, "lost_by_reason": stats.lost_by_reason}
print(json.dumps({"tried": tried, **{count: getattr(stats, count) for count in counts}, **reasons}))
