"""Times every single capture of a program that is long past its first.

    python steady.py CONTENDER URL KIND COUNT        KIND: of PROPERTIES, or exception

After the warm-up it pauses, so that whatever the contender starts has started. The queue has room for all events, so
that none is dropped; the garbage collector runs as it will. The timer's own cost is subtracted. Prints one JSON object,
then leaves without draining.
"""

from __future__ import annotations

import json
import os
import sys
import time

THREE = {"command": "build", "ok": True, "targets": 3}
TEN = {
    "command": "build",
    "ok": True,
    "targets": 3,
    "duration": 12.5,
    "board": "a board with a name",
    "layers": 4,
    "components": 120,
    "flags": ["--verbose", "--keep-going"],
    "nothing": None,
    "options": {"frozen": True},
}
SCALARS = {**TEN, "flags": "--verbose", "options": 1e-9}
PROPERTIES = {
    "3": THREE,
    "10": TEN,
    "scalars": SCALARS,
    "list": {**SCALARS, "flags": ["--verbose", "--keep-going"]},
    "100 dicts": {"rows": [{"step": number} for number in range(100)]},
    "1000 dicts": {"rows": [{"step": number} for number in range(1000)]},
}
WARM_UP = 200
PAUSE = 0.5


def fail(depth):
    if depth:
        fail(depth - 1)
    raise ValueError("a number that is none: 12,5")


def caught():
    try:
        fail(5)
    except ValueError as error:
        return error


def bare(properties, timer):
    """Return the seconds that msgspec alone takes to encode the properties, here and now."""
    encode, now = sys.modules["msgspec"].json.Encoder().encode, time.perf_counter_ns
    taken = []
    for _ in range(1000):
        start = now()
        encode(properties)
        taken.append(now() - start)
    return max(0, sorted(taken)[500] - timer) / 1e9


def main(contender, url, kind, count):
    telemetry = __import__(f"contender_{contender}")
    telemetry.load()
    telemetry.setup(url, count + WARM_UP)
    capture, now = telemetry.capture, time.perf_counter_ns
    timer = sorted(-now() + now() for _ in range(1000))[500]
    taken = []
    for _ in range(WARM_UP):
        capture("warm-up", THREE)
    time.sleep(PAUSE)
    if kind == "exception":
        capture = telemetry.capture_exception
        for _ in range(count):
            error = caught()  # a new one each time: nobody reports the same exception twice
            start = now()
            capture(error)
            taken.append(now() - start)
    else:
        properties = PROPERTIES[kind]
        for _ in range(count):
            start = now()
            capture("steady", properties)
            taken.append(now() - start)
    taken = sorted(max(0, each - timer) for each in taken)
    report = {
        "bare": bare(PROPERTIES[kind], timer) if "msgspec" in sys.modules and kind in PROPERTIES else None,
        "median": taken[len(taken) // 2] / 1e9,
        "p99": taken[len(taken) * 99 // 100] / 1e9,
        "dropped": telemetry.dropped(),
    }
    print(json.dumps(report), flush=True)
    os._exit(0)


main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
