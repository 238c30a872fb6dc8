"""Many at once: processes that start together, threads that capture together. Nothing is lost, nothing comes twice."""

from __future__ import annotations

import pytest

from support_hosts import needs_senders
from support_processes import SLOWER

pytestmark = needs_senders


@pytest.mark.timeout(120)
@pytest.mark.posix("128 processes at once; test_windows.py has sixteen hosts")
def test_64_cli_runs_at_once(hosts):
    """A parallel build runs the CLI 64 times at once: every run succeeds, all its events arrive, each once."""
    # Far more processes than processors: each sender's turn comes late, so its clocks are generous.
    source = """
client = new_client(request_timeout=60, sender_deadline=100)
client.capture(f"start {sys.argv[1]}", distinct_id="me")
client.capture(f"end {sys.argv[1]}", distinct_id="me")
handed_over(client, 2)  # the work that a CLI is there for takes longer than a busy machine needs for this
"""
    script = hosts.script(source)
    python = hosts.command("")[0]
    running = [hosts.start_command([python, script, str(number)]) for number in range(64)]
    for host in running:
        host.assert_ends()
    hosts.server.wait_for_events(128, timeout=90)
    hosts.assert_arrived_once(*(f"{part} {number}" for number in range(64) for part in ("start", "end")))


def test_a_thousand_threads_capture_at_once(hosts):
    """A server with a thousand threads: the first event of all, and every further one, arrives once."""
    count = 1000 // SLOWER**2
    hosts.assert_runs(
        f"""
COUNT = {count}
threading.stack_size(256 * 1024)
client = new_client(queue_size=10_000)
together = threading.Barrier(COUNT)
uuids = []
def work(thread):
    together.wait()
    for number in range(5):
        uuids.append(client.capture(f"{{thread}} {{number}}", distinct_id="me", properties={{"thread": thread}}))
in_threads(COUNT, work)
say(client.flush(20), len(set(uuids)), None in uuids)
stats = client.stats
say(stats.captured, stats.handed_over, stats.dropped, stats.queued)
""",
        options=("-X", "dev"),
        stdout=f"True {5 * count} False\n{5 * count} {5 * count} 0 0\n",
        arrived=[f"{thread} {number}" for thread in range(count) for number in range(5)],
    )


def test_many_threads_and_a_small_queue(hosts):
    """More than the queue can take: what `capture` accepted arrives once, what it refused does not, all is counted."""
    done = hosts.assert_runs(
        """
client = new_client(queue_size=8)
names = []
def capture(name):
    if client.capture(name, distinct_id="me"):
        names.append(name)
def work(thread):
    for number in range(200):
        capture(f"{thread} {number}")
capture("first")  # loads what events need: a thread that needs it meanwhile drops its event after two seconds
in_threads(20, work)
assert client.flush(20)
stats = client.stats
assert (stats.captured, stats.handed_over, stats.queued) == (4001, len(names), 0), stats
assert stats.dropped_by_reason in ({}, {"queue full": 4001 - len(names)}), stats
print(*names, sep="\\n")
""",
        stdout=None,
    )
    hosts.assert_arrived_once(*done.stdout.splitlines())


def test_many_clients_in_one_host(hosts):
    """A host whose plugins each have a client: each has one sender of its own, and all events arrive once."""
    hosts.assert_runs(
        """
clients = [new_client(app=f"plugin{number}") for number in range(8)]
for turn in range(3):
    for number, client in enumerate(clients):
        client.capture(f"{number} {turn}", distinct_id="me")
for client in clients:
    handed_over(client, 3)
""",
        arrived=[f"{number} {turn}" for number in range(8) for turn in range(3)],
    )
    agents = {request.headers["User-Agent"] for request in hosts.server.requests}
    assert agents == {f"plugin{number}/1" for number in range(8)}
