"""A server on its worst day: the host does not notice, and what it started is gone by its deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from atotelemetry.testing import Answer
from support_hosts import needs_senders

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

# The sender may try again and again, and wait for each answer for longer than it has time.
STUBBORN = """
client = new_client(sender_deadline=2.0, request_timeout=60.0, max_retries=1000)
client.capture("one", distinct_id="me")
client.capture("two", distinct_id="me")
"""


@pytest.mark.parametrize(
    "answer",
    [
        Answer(hang=True),
        Answer(status=500, trickle=0.1),
        pytest.param(Answer(reset=True), marks=pytest.mark.posix("Wine has no reset by SO_LINGER")),
        Answer(drop=True),
        Answer(garbage=True),
        Answer(status=503),
        Answer(status=429, headers=[("Retry-After", "3600")]),
        Answer(status=302, headers=[("Location", "/elsewhere")]),
    ],
    ids=["hangs", "trickles", "resets", "drops", "talks garbage", "is unavailable", "says: in an hour", "sends away"],
)
def test_server_that(hosts: Hosts, answer: Answer) -> None:
    """The host ends as if there were none; its sender, while the server goes on like that, in time."""
    hosts.server.respond(answer)
    hosts.assert_runs(STUBBORN)
    hosts.wait_until_no_sender(10)  # five times its deadline; without one it would not end at all
    assert hosts.server.events == []


def test_server_that_refuses(hosts: Hosts) -> None:
    """Nobody listens there: the same."""
    hosts.environment["TEST_SERVER"] = "http://127.0.0.1:9"
    hosts.assert_runs(STUBBORN)
    hosts.wait_until_no_sender(10)
