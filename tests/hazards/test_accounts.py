"""The counts are the whole truth: what became of each event, also when senders are killed or stopped at any moment."""

from __future__ import annotations

import random
import sys
import time
from typing import TYPE_CHECKING

import pytest

from atotelemetry.testing import Answer
from support_hosts import needs_senders
from support_processes import go_on, kill, stop

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

# Captures until it is told to end, and tells what became of everything.
STORM = """
from atotelemetry.host import transport
transport.MAX_FAILURES = 1000  # on a busy machine senders are killed before they have read anything
client = new_client(on_error=lambda reason, count: errors.append((reason, count)))
errors = []
done = threading.Event()
threading.Thread(target=lambda: (hear(), done.set()), daemon=True).start()
say("ready")
number = 0
while not done.is_set():
    client.capture("storm", distinct_id="me", properties={"padding": "x" * (number % 7 * 300)})
    number += 1
    if number % (40 if os.name == "posix" else 400) == 0:  # each time another sender starts, which takes Wine long
        client.flush(5)
    time.sleep(0.002)
client.flush(30, delivered=True)
stats = client.stats
assert stats.captured == number == stats.queued + stats.dropped + stats.handed_over, stats
assert stats.handed_over == stats.delivered + stats.lost + stats.on_the_way, stats
assert stats.captured == stats.delivered + stats.lost + stats.dropped, stats
wait_until(lambda: sum(count for _, count in errors) == stats.lost + stats.dropped)
say(stats.delivered, stats.lost, *stats.lost_by_reason)
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_senders_killed_and_stopped_at_random(hosts: Hosts, seed: int) -> None:
    """Delivered, lost and dropped are all that was captured, to the event; no event arrives that is not counted."""
    chance = random.Random(seed)
    host = hosts.start(STORM)
    assert host.hear() == "ready"
    for _ in range(6):
        hosts.wait_for_senders()
        if sys.platform == "win32":  # a start takes long there, and a host gives up after some that never were ready
            hosts.server.wait_for_events(len(hosts.server.events) + 1)
        time.sleep(chance.random() * 0.3)
        for pid in hosts.senders()[:1]:
            try:
                if chance.random() < 0.3:
                    stop(pid)
                    time.sleep(chance.random() * 0.2)
                    go_on(pid)
                else:
                    kill(pid)
            except ProcessLookupError:
                continue
    host.tell()
    delivered, lost, *reasons = host.hear().split(" ", 2)
    host.assert_ends()
    hosts.wait_until_no_sender()
    arrived = hosts.arrived()["storm"]
    # A sender killed between the server's answer and its own took that answer with it.
    assert int(delivered) <= arrived <= int(delivered) + int(lost), reasons


def test_what_a_sender_threw_away_is_told_with_its_reason(hosts: Hosts) -> None:
    """The server refuses, then hangs: lost, by reason; `flush(delivered=True)` and `on_error` say so, too."""
    hosts.server.script(Answer(status=401))
    source = """
errors = []
client = new_client(on_error=lambda reason, count: errors.append((reason, count)), endpoint="batch")
for number in range(5):
    client.capture("one", distinct_id="me")
said = client.flush(20, delivered=True)
wait_until(lambda: errors)
say(said, client.stats.lost_by_reason, errors)
"""
    done = hosts.assert_runs(source, stdout=None)
    assert done.stdout == "False {'refused (401)': 5} [('refused (401)', 5)]\n"


@pytest.mark.posix("forks")
def test_twenty_forks_before_a_full_pipe(hosts: Hosts) -> None:
    """The first one waits a moment for a stopped sender; no other does until the pipe moves."""
    source = """
def fork_twenty_times(between):
    began = time.monotonic()
    for number in range(20):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        between()
    return time.monotonic() - began
client = new_client(queue_size=1000)
alone = fork_twenty_times(int)
hand_over_one(client, "first")
while client.stats.queued < 100:
    client.capture("ballast", distinct_id="me", properties={"ballast": "x" * 2000})
say(fork_twenty_times(lambda: client.capture("between", distinct_id="me")) - 5 * alone)
hear()
say(client.flush(20), client.stats.dropped)
"""
    host = hosts.start(source)
    sender = hosts.stop_the_sender(host)
    try:
        # 0.3 s in all on a machine of one's own. If each fork waited as long as the first it were more than 2 s.
        assert float(host.hear()) < 1.0
    finally:
        go_on(sender)
    host.tell()
    assert host.hear() == "True 0"
    host.assert_ends()
    hosts.wait_until_no_sender()
    assert hosts.arrived()["between"] == 20
