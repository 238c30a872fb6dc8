"""Times how a program of a given size starts another one.

    python spawning.py MEBIBYTES

Prints one JSON object: the median seconds of a call of `posix_spawn` (no copy of the program's memory), and of `fork`
followed by exec; both until the caller goes on.
"""

from __future__ import annotations

import json
import os
import sys
import time


def spawn():
    return os.posix_spawn("/bin/true", ["true"], {})


def fork():
    child = os.fork()
    if not child:
        os.execv("/bin/true", ["true"])
    return child


def median(start):
    taken = []
    for _ in range(21):
        began = time.perf_counter()
        child = start()
        taken.append(time.perf_counter() - began)
        os.waitpid(child, 0)
    return sorted(taken)[10]


resident = bytearray(int(sys.argv[1]) * 2**20)
resident[::4096] = b"\1" * len(resident[::4096])
print(json.dumps({"posix_spawn": median(spawn), "fork": median(fork)}))
