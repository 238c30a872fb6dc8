"""A long-lived host against a server that is healthy, slow, down, broken and resetting, in turn.

    python -m tests.bench.soak --seconds 60

This process is the server and the observer: it samples memory, descriptors, threads and processes of the host and of
its senders from /proc (Linux), prints a table, and judges. Memory, descriptors and threads must be as flat at the end
as they were early on; there is never a crowd of senders; and every event is accounted for, from `capture` through the
client's counts and the senders' own journal to what the server accepted. Exit status 0 when all of it holds, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

from atotelemetry.testing import Answer, CaptureServer

HOST = pathlib.Path(__file__).parent / "hosts" / "soak_host.py"
RATE = 200
PHASES = (
    ("healthy", Answer()),
    ("slow", Answer(delay=1.0)),
    ("down", None),
    ("503", Answer(status=503)),
    ("resetting", Answer(reset=True)),
)
SAMPLE_EVERY = 0.25
MAX_SENDERS = 3  # one that is fed, and those that still drain

_MEBIBYTE = 2**20
_DONE = re.compile(r"done: (\d+) events read, (\d+) delivered, (\d+) dropped")


class Sample(NamedTuple):
    """What one look at the processes saw; the senders' figures are those of the largest."""

    at: float
    phase: str
    host_rss: float
    host_fds: int
    host_threads: int
    senders: int
    sender_rss: float
    sender_fds: int
    sender_threads: int


class Flapping:
    """The server, and the thread that changes its mind; a context manager. Keeps only the ids that it accepted."""

    def __init__(self, phase_seconds):
        self.phase = "healthy"
        self.accepted = set()
        self.doubled = 0
        self._seconds = phase_seconds
        self._server = CaptureServer(on_request=self._note)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._flap)

    def __enter__(self):
        self._server.start()
        self.url = self._server.url
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.calm()
        self._server.stop()

    def calm(self):
        """Be healthy from now on."""
        self._over.set()
        self._thread.join()

    def _flap(self):
        up = True
        while not self._over.is_set():
            for name, answer in PHASES:
                self.phase = name
                if answer is None:
                    self._server.stop()
                    up = False
                else:
                    if not up:
                        self._server.start()
                        up = True
                    self._server.respond(answer)
                if self._over.wait(self._seconds):
                    break
        if not up:
            self._server.start()
        self._server.respond(None)
        self.phase = "healthy"

    def _note(self, request):
        if request.accepted:
            for event in request.events:
                self.doubled += event["uuid"] in self.accepted
                self.accepted.add(event["uuid"])
        self._server.clear()  # what was seen is forgotten: only the host and its senders shall be able to grow


def children_of(pid):
    """Return the ids of the process's children, those of each of its threads."""
    found = []
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, children.read_text(encoding="ascii").split())
        except OSError:
            continue
    return found


def look_at(pid):
    """Return resident bytes, descriptors and threads of a process; None when it has gone, or is a zombie."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmRSS" not in fields:
            return None
        return int(fields["VmRSS"].split()[0]) * 1024, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])
    except OSError:
        return None


def watch(host, server, began):
    """Sample until the host has ended."""
    samples = []
    while host.poll() is None:
        own = look_at(host.pid)
        others = [seen for seen in map(look_at, children_of(host.pid)) if seen is not None]
        if own is not None:
            largest = [max(values) for values in zip(*others, strict=True)] or [0, 0, 0]
            samples.append(Sample(time.monotonic() - began, server.phase, *own, len(others), *largest))
        try:
            host.wait(SAMPLE_EVERY)
        except subprocess.TimeoutExpired:
            continue
    return samples


def quarter(samples, seconds, number, field):
    """Return the field's median over one quarter (1 to 4) of the time."""
    low, high = (number - 1) * seconds / 4, number * seconds / 4
    values = [getattr(sample, field) for sample in samples if low <= sample.at < high and getattr(sample, field)]
    return statistics.median(values) if values else 0


def judge(samples, seconds, report, journal, server):
    """Return the verdicts: (what, whether it holds, the figures)."""
    verdicts = []
    for field, label in (("host_rss", "host's memory"), ("sender_rss", "sender's memory")):
        early, late = (quarter(samples, seconds, number, field) / _MEBIBYTE for number in (2, 4))
        flat = late <= early + max(0.1 * early, 4)
        verdicts.append((f"{label} is flat", flat, f"{early:.1f} MiB in the second quarter, {late:.1f} in the last"))
    for field in ("host_fds", "host_threads", "sender_fds", "sender_threads"):
        early, late = (quarter(samples, seconds, number, field) for number in (2, 4))
        verdicts.append((f"{field.replace('_', ' ')} are flat", late <= early + 4, f"{early:g}, then {late:g}"))
    most = max(sample.senders for sample in samples)
    verdicts.append(("never a crowd of senders", 1 <= most <= MAX_SENDERS, f"at most {most} at a time"))
    adds_up = report["tried"] == report["captured"] == report["handed_over"] + report["dropped"]
    verdicts.append(("the client's counts add up", adds_up and not report["queued"], json.dumps(report)))
    read, delivered, lost = (sum(numbers) for numbers in zip(*journal, strict=True))
    passed_on = read == report["handed_over"] and read == delivered + lost
    verdicts.append(("the senders' counts add up", passed_on, f"{read} read, {delivered} delivered, {lost} dropped"))
    arrived = len(server.accepted)
    figures = f"{arrived} accepted, {server.doubled} of them twice"
    # A connection that ends in the middle of an answer makes an event arrive that its sender takes for lost.
    verdicts.append(("what was delivered arrived, once", arrived >= delivered and not server.doubled, figures))
    return verdicts


def table(samples, rows=20):
    lines = ["   time  server     host MiB  fds  threads  senders  sender MiB  fds  threads"]
    step = max(1, len(samples) // rows)
    lines += [
        f"{sample.at:6.1f}s  {sample.phase:9}  {sample.host_rss / _MEBIBYTE:8.1f}  {sample.host_fds:3}  "
        f"{sample.host_threads:7}  {sample.senders:7}  {sample.sender_rss / _MEBIBYTE:10.1f}  {sample.sender_fds:3}  "
        f"{sample.sender_threads:7}"
        for sample in samples[::step]
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the host captures (default %(default)g)")
    options = parser.parse_args()
    if not os.path.isdir("/proc/self/fd"):
        sys.exit("the soak looks at its processes through /proc, which is not here")
    # Each quarter of the time sees every phase at least once.
    phase_seconds = min(3.0, options.seconds / 4 / len(PHASES))
    with tempfile.TemporaryDirectory(prefix="soak-") as directory, Flapping(phase_seconds) as server:
        log = pathlib.Path(directory, "senders.log")
        host = subprocess.Popen(
            [sys.executable, str(HOST), server.url, str(options.seconds), str(RATE)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
            # No place for a cache: a server that fails in turn is the point, and no reason to pause.
            env={**os.environ, "ATO_TELEMETRY_LOG": str(log), "XDG_CACHE_HOME": f"{directory}/not/there"},
        )
        began = time.monotonic()
        try:
            samples = watch(host, server, began)
            report = json.loads(host.stdout.read())
        finally:
            host.kill()
            host.wait()
            host.stdout.close()
        journal = [tuple(map(int, numbers)) for numbers in _DONE.findall(log.read_text(encoding="utf-8"))]
        server.calm()
        verdicts = judge(samples, options.seconds, report, journal or [(0, 0, 0)], server)
    print(table(samples))
    print()
    for what, holds, figures in verdicts:
        print(f"{'ok   ' if holds else 'WRONG'}  {what}: {figures}")
    sys.exit(0 if all(holds for _, holds, _ in verdicts) else 1)


if __name__ == "__main__":
    main()
