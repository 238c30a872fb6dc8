"""Long-lived hosts against a server that is healthy, slow, down, broken and resetting, in turn.

    python -m tests.bench.soak --seconds 60

Two hosts run side by side, one of them `patient`. This process is the server and the observer: it samples memory,
descriptors, threads and processes of the hosts and of their senders from /proc (Linux), prints a table, and judges.
Memory, descriptors and threads must be as flat at the end as they were early on; there is never a crowd of senders; and
every event is accounted for by the client's `stats` alone, which agree with what the server accepted. Exit status 0
when all of it holds, else 1.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

from atotelemetry.testing import Answer, CaptureServer

HOST = pathlib.Path(__file__).parent / "hosts" / "soak_host.py"
HOSTS = ("ordinary", "patient")
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
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


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
    """The server, and the thread that changes its mind; a context manager. Keeps the ids that it accepted, by host."""

    def __init__(self, phase_seconds):
        self.phase = "healthy"
        self.accepted = collections.defaultdict(set)
        self.doubled = collections.Counter()
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
                accepted = self.accepted[event["distinct_id"]]
                self.doubled[event["distinct_id"]] += event["uuid"] in accepted
                accepted.add(event["uuid"])
        self._server.clear()  # what was seen is forgotten: only the host and its senders shall be able to grow


def senders_of(name):
    """Return the ids of a host's senders. They are nobody's children, so they become ours. Reap the dead."""
    found = []
    children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    for pid in map(int, children.split()):
        try:
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if not environment[0]:
            os.waitpid(pid, os.WNOHANG)  # a zombie has none
        elif b"ATO_TELEMETRY_SENDER=1" in environment and f"SOAK={name}".encode() in environment:
            found.append(pid)
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


def watch(hosts, server, seconds):
    """Sample until the hosts have ended; return the samples of each, by name.

    The server recovers once the hosts have captured everything, so that patience can be rewarded.
    """
    samples, began = {name: [] for name in hosts}, time.monotonic()
    while any(host.poll() is None for host in hosts.values()):
        for name, host in hosts.items():
            own = look_at(host.pid)
            others = [seen for seen in map(look_at, senders_of(name)) if seen is not None]
            if own is not None:
                largest = [max(values) for values in zip(*others, strict=True)] or [0, 0, 0]
                sample = Sample(time.monotonic() - began, server.phase, *own, len(others), *largest)
                samples[name].append(sample)
        if time.monotonic() > began + seconds:
            server.calm()
        time.sleep(SAMPLE_EVERY)
    return samples


def quarter(samples, seconds, number, field):
    """Return the field's median over one quarter (1 to 4) of the time."""
    low, high = (number - 1) * seconds / 4, number * seconds / 4
    values = [getattr(sample, field) for sample in samples if low <= sample.at < high and getattr(sample, field)]
    return statistics.median(values) if values else 0


def judge(name, samples, seconds, stats, server):
    """Return the verdicts on one host: (what, whether it holds, the figures)."""
    verdicts = []
    for field, label in (("host_rss", "host's memory"), ("sender_rss", "sender's memory")):
        early, late = (quarter(samples, seconds, number, field) / _MEBIBYTE for number in (2, 4))
        # A patient sender keeps what an outage holds up, in a buffer of this size.
        flat = late <= early + (8 if name == "patient" and field == "sender_rss" else max(0.1 * early, 4))
        verdicts.append((f"{label} is flat", flat, f"{early:.1f} MiB in the second quarter, {late:.1f} in the last"))
    for field in ("host_fds", "host_threads", "sender_fds", "sender_threads"):
        early, late = (quarter(samples, seconds, number, field) for number in (2, 4))
        verdicts.append((f"{field.replace('_', ' ')} are flat", late <= early + 4, f"{early:g}, then {late:g}"))
    most = max(sample.senders for sample in samples)
    verdicts.append(("never a crowd of senders", 1 <= most <= MAX_SENDERS, f"at most {most} at a time"))
    told = stats["delivered"] + stats["lost"] + stats["dropped"]
    adds_up = stats["tried"] == stats["captured"] == told and not stats["queued"] and not stats["on_the_way"]
    verdicts.append(("the stats account for every event", adds_up, json.dumps(stats)))
    arrived, doubled = len(server.accepted[name]), server.doubled[name]
    # A connection that ends in the middle of an answer makes an event arrive that its sender takes for lost.
    agree = stats["delivered"] <= arrived <= stats["delivered"] + stats["lost"] and not doubled
    verdicts.append(("the server agrees", agree, f"{arrived} accepted, {doubled} of them twice"))
    if name == "patient":
        lost = stats["lost_by_reason"]  # an outage of minutes brings more than the buffer holds
        verdicts.append(("patience loses only what finds no room", set(lost) <= {"buffer full"}, f"{lost}"))
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
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        sys.exit("the soak adopts the senders of its hosts, which the kernel refuses")
    # Each quarter of the time sees every phase at least once.
    phase_seconds = min(3.0, options.seconds / 4 / len(PHASES))
    holds = True
    with tempfile.TemporaryDirectory(prefix="soak-") as directory, Flapping(phase_seconds) as server:
        hosts = {name: start(name, server.url, options.seconds, directory) for name in HOSTS}
        try:
            samples = watch(hosts, server, options.seconds)
            stats = {name: json.loads(host.stdout.read()) for name, host in hosts.items()}
        finally:
            for host in hosts.values():
                host.kill()
                host.wait()
                host.stdout.close()
        for name in HOSTS:
            print(f"{name} host\n{table(samples[name])}\n")
            for what, is_so, figures in judge(name, samples[name], options.seconds, stats[name], server):
                holds = holds and is_so
                print(f"{'ok   ' if is_so else 'WRONG'}  {what}: {figures}")
            print()
    sys.exit(0 if holds else 1)


def start(name, url, seconds, directory):
    """Start a host. It has no place for a cache: a server that fails in turn is the point, and no reason to pause."""
    return subprocess.Popen(
        [sys.executable, str(HOST), url, str(seconds), str(RATE), name],
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={**os.environ, "SOAK": name, "XDG_CACHE_HOME": f"{directory}/not/there"},
    )


if __name__ == "__main__":
    main()
