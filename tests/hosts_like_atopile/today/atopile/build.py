"""`ato build`: a thread for each target, and a worker process for each thread."""

from __future__ import annotations

import multiprocessing
import os
import threading

from atopile.telemetry import telemetry
from atopile.telemetry.build import apply_worker_context, capture_build_invocation
from atopile.telemetry.properties import ThinProperties

workers = multiprocessing.get_context("forkserver")


class PickError(Exception):
    """There is no such part."""


def start_forkserver():
    """Start it before there are threads, with the program's modules loaded."""
    workers.set_forkserver_preload(["atopile.build"])
    noop = workers.Process(target=int)
    noop.start()
    noop.join()


def work(target, invocation_id, pid):
    """Build one target in a process of its own."""
    apply_worker_context(invocation_id, pid)
    extra = {"target": target, "build_invocation_id": os.environ["ATO_BUILD_INVOCATION_ID"], "worker": os.getpid()}
    telemetry.Telemetry.get().capture("worker:target", ThinProperties(extra=extra))
    if target == "broken":
        raise SystemExit(1)


@capture_build_invocation()
def submit(targets):
    """Build all targets at once; return the names of those that failed."""
    failed = []
    with capture_build_invocation() as invocation:
        invocation.add(targets)

        def watch(target):
            process = workers.Process(target=work, args=(target, invocation.id, invocation.pid))
            process.start()
            process.join()
            if process.exitcode != 0:
                failed.append(target)
            invocation.complete(target, "failed" if process.exitcode else "success")

        threads = [threading.Thread(target=watch, args=(target,)) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise PickError(f"no part for R1 in {failed[0]}")
