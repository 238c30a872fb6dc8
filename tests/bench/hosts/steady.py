"""Times every single capture of a program that is long past its first.

    python steady.py CONTENDER URL KIND COUNT        KIND: of PROPERTIES, or exception

After the warm-up it pauses, so that whatever the contender starts has started. The queue has room for all events, so
that none is dropped; the garbage collector runs as it will. What the timer and the contender's wrapper cost is
subtracted. Prints one JSON object, then leaves without draining.
"""

from __future__ import annotations

import json
import os
import sys
import time

THREE = {"command": "build", "ok": True, "targets": 3}
SCALARS = {
    "command": "build",
    "ok": True,
    "targets": 3,
    "duration": 12.5,
    "board": "a board with a name",
    "layers": 4,
    "components": 120,
    "flags": "--verbose",
    "nothing": None,
    "options": 1e-9,
}
PROPERTIES = {
    "3": THREE,
    "10": SCALARS,
    "list": {**SCALARS, "flags": ["--verbose", "--keep-going"]},
    "nested": {**SCALARS, "flags": ["--verbose", "--keep-going"], "options": {"frozen": True}},
    "100 dicts": {"rows": [{"step": number} for number in range(100)]},
    "1000 dicts": {"rows": [{"step": number} for number in range(1000)]},
}
WARM_UP = 200
PAUSE = 0.5


def fail(depth, kind):
    if depth:
        fail(depth - 1, kind)
    raise kind("cannot read /home/somebody/board.ato: password=hunter2")


def caught(number):
    """Return an exception that was raised; of a type of its own, since one bug in a loop is not worth telling twice."""
    try:
        fail(5, type(f"Error{number}", (ValueError,), {}))
    except ValueError as error:
        return error


def timed(count, call, name, properties):
    """Return the nanoseconds of each of `count` calls, in order of size."""
    now, taken = time.perf_counter_ns, []
    for _ in range(count):
        start = now()
        call(name, properties)
        taken.append(now() - start)
    return sorted(taken)


def bare(properties):
    """Return the nanoseconds that msgspec alone takes to encode the properties, here and now."""
    encode, now = sys.modules["msgspec"].json.Encoder().encode, time.perf_counter_ns
    timer = sorted(-now() + now() for _ in range(1000))[500]
    taken = []
    for _ in range(1000):
        start = now()
        encode(properties)
        taken.append(now() - start)
    return sorted(taken)[500] - timer


def main(contender, url, kind, count):
    telemetry = __import__(f"contender_{contender}")
    telemetry.load()
    telemetry.setup(url, count + WARM_UP)
    for _ in range(WARM_UP):
        telemetry.capture("warm-up", THREE)
    time.sleep(PAUSE)
    capture, properties = telemetry.capture, PROPERTIES.get(kind)
    if kind == "exception":
        errors = [caught(number) for number in range(count)]

        def capture(name, properties):
            telemetry.capture_exception(errors.pop())

    taken = timed(count, capture, "steady", properties)
    wrapper = timed(1000, __import__("contender_none").capture, "steady", THREE)[500]
    report = {"median": taken[count // 2] - wrapper, "p99": taken[count * 99 // 100] - wrapper}
    if properties and "msgspec" in sys.modules:
        report["bare"] = bare(properties)
    report = {name: max(0, each) / 1e9 for name, each in report.items()}
    if telemetry.dropped() is not None:
        report["dropped"] = telemetry.dropped()
    print(json.dumps(report), flush=True)
    os._exit(0)


main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
