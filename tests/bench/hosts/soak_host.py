"""A long-lived program that captures at a steady rate, and at its end says what its client counted.

python soak_host.py URL SECONDS EVENTS_PER_SECOND
"""

from __future__ import annotations

import json
import sys
import time

from atotelemetry import TelemetryClient

url, seconds, rate = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
client = TelemetryClient("phc_soak", url, app="soak", app_version="1")
began = time.monotonic()
tried = 0
while (now := time.monotonic()) < began + seconds:
    while tried < (now - began) * rate:
        client.capture("soaked", distinct_id="me", properties={"number": tried, "command": "build", "ok": True})
        tried += 1
    time.sleep(1 / rate)
handed_over = client.flush(60.0)
client.flush(30.0, delivered=True)
stats = client.stats
print(
    json.dumps(
        {
            "tried": tried,
            "captured": stats.captured,
            "handed_over": stats.handed_over,
            "dropped": stats.dropped,
            "queued": stats.queued,
            "flushed": handed_over,
        }
    )
)
