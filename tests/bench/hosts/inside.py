"""A two-event program that looks at its own clock: import, set-up, first capture, exit hooks, peak memory.

    python inside.py CONTENDER URL SECONDS_OF_WORK

`atexit` calls the last hook first: the one registered before the contender's ends the measurement, the one after
begins it. Prints one JSON object.
"""

from __future__ import annotations

import atexit
import os
import sys
import time

clock = time.perf_counter
times = {}


def peak_bytes():
    """Return the most memory this program ever held.

    `ru_maxrss` would do, but on Linux a process inherits it from the program that spawned it.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def finish():
    ended = clock()
    times["exit_hook"] = ended - times.pop("exit_began")
    fields = ", ".join(f'"{name}": {value!r}' for name, value in [*times.items(), ("peak_bytes", peak_bytes())])
    os.write(1, f"{{{fields}}}\n".encode())


def begin():
    times["exit_began"] = clock()


atexit.register(finish)
telemetry = __import__(f"contender_{sys.argv[1]}")
start = clock()
telemetry.load()
times["import"] = clock() - start
start = clock()
telemetry.setup(sys.argv[2])
times["setup"] = clock() - start
start = clock()
telemetry.capture("run started", {"command": "build", "verbose": False, "targets": 3})
times["first_capture"] = clock() - start
time.sleep(float(sys.argv[3]))
telemetry.capture("run ended", {"command": "build", "ok": True, "warnings": 2})
atexit.register(begin)
