"""A watched host: its sender is told of forks, and listens until a stop or a no."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from _thread import get_ident
from pathlib import Path

import pytest

from atotelemetry.host import child as child_module
from atotelemetry.host import transport as transport_module
from atotelemetry.host.consent import Consent
from atotelemetry.host.last_words import LastWords
from atotelemetry.host.outbox import Outbox
from atotelemetry.host.telemetry import Telemetry
from atotelemetry.wire import Watch
from support_feeder import END, FORKED, HELLO, PATIENCE, event, wait_until


class Words:
    """Stands in for `LastWords`: notes the calls, and how many senders had been ended by then."""

    def __init__(self, spawner) -> None:
        self.calls: list[str] = []
        self.threads: list[int] = []
        self._spawner = spawner

    def enable(self) -> None:
        self.threads.append(get_ident())

    def listen(self) -> int:
        self.calls.append("listen")
        return 17

    def mute(self) -> None:
        alive = sum(sender.pipe >= 0 for sender in self._spawner.senders)
        self.calls.append(f"mute with {alive}")

    def disable(self) -> None:
        alive = sum(sender.pipe >= 0 for sender in self._spawner.senders)
        self.calls.append(f"disable with {alive}")


@pytest.fixture
def words(spawner):
    return Words(spawner)


@pytest.fixture
def watched(new_feeder, words):
    return new_feeder(last_words=words)


def test_the_thread_of_the_first_event_enables(watched, words):
    """It is the host's own, which gets the alternate stack. The sender gets the pipe of the dumps."""
    assert words.threads == []
    watched.put(event(1))
    assert words.threads == [get_ident()]
    wait_until(lambda: words.calls == ["listen"])


def test_the_sender_is_started_with_the_pipe(watched, spawner):
    """A host with last words gives it the pipe of its dumps."""
    watched.put(event(1))
    spawner.sender(1)
    assert (spawner.watch, spawner.dumps) == (True, 17)


def test_no_pipe_without_last_words(feeder, spawner):
    """An ordinary host has no pipe for dumps."""
    feeder.put(event(1))
    spawner.sender(1)
    assert (spawner.watch, spawner.dumps) == (False, -1)


def test_an_idle_sender_listens_on(watched, spawner, monkeypatch):
    """No idle time ends it, not even one without a thread after a fork."""
    now = 1000.0
    monkeypatch.setattr(child_module, "monotonic", lambda: now)
    monkeypatch.setattr(transport_module, "FEEDER_IDLE", 0.02)
    watched.put(event(1))
    spawner.sender(1).read(event(1))
    watched.before_fork()
    watched.after_fork_in_parent()
    now += 100
    watched.put(event(2))
    assert spawner.sender(1).read(event(2)) == [HELLO, event(1), FORKED, event(2)]
    now += 100
    assert not threading.Event().wait(0.1), "five times as long as it may be idle"
    assert spawner.sender(1).pipe >= 0
    assert spawner.calls == 1


def test_a_flush_leaves_the_sender(watched, spawner):
    """Afterwards all events are in its pipe, and no `end`."""
    for number in range(3):
        watched.put(event(number))
        assert watched.flush(PATIENCE)
        assert spawner.sender(1).read(event(number))[-1] == event(number)
    assert spawner.calls == 1


def test_a_delivered_flush_waits_for_the_answers(watched, spawner):
    """The sender goes on, so its answers decide, not its end."""
    watched.put(event(1))
    sender = spawner.sender(1)
    sender.read(event(1))
    assert not watched.flush(0.05, delivered=True)
    sender.answer(delivered=1)
    assert watched.flush(PATIENCE, delivered=True)
    watched.put(event(2))
    sender.read(event(2))
    sender.answer(delivered=1, dropped={"refused": 1})
    assert not watched.flush(PATIENCE, delivered=True), "the second was lost"
    assert sender.pipe >= 0


def test_a_stop_ends_it_and_then_dumps_go_nowhere(watched, spawner, words):
    """A host that shuts its telemetry down has no last words; the sender reads `end`."""
    watched.put(event(1))
    sender = spawner.sender(1)
    assert watched.flush(PATIENCE, stop=True)
    assert sender.read_to_end() == [HELLO, event(1), END]
    assert words.calls == ["listen", "disable with 1"]


def test_a_no_mutes_before_the_end(watched, spawner, words):
    """A crash after the no is not reported, however soon it comes."""
    watched.put(event(1))
    sender = spawner.sender(1)
    sender.read(event(1))
    watched.discard()
    assert sender.read_to_end()[-1] == END
    assert words.calls == ["listen", "mute with 1"]


def test_the_next_sender_listens_when_one_died(watched, spawner, words):
    """Its predecessor's pipe is replaced first."""
    watched.put(event(1))
    spawner.sender(1).die()
    watched.put(event(2))
    spawner.sender(2).read(event(2))
    assert words.calls == ["listen", "mute with 1", "listen"]


@pytest.mark.posix("forks")
def test_a_fork_is_marked_before_it_returns(watched, spawner):
    """A daemon's first process leaves right after its fork; the mark is in the pipe by then."""
    watched.put(event(1))
    sender = spawner.sender(1)
    sender.read(event(1))
    watched.before_fork()
    watched.after_fork_in_parent()
    os.set_blocking(sender.read_end, False)
    assert sender.read(FORKED) == [HELLO, event(1), FORKED]


def test_an_unwatched_host_marks_no_fork(feeder, spawner):
    """Its stream is as it was."""
    feeder.put(event(1))
    spawner.sender(1).read(event(1))
    feeder.before_fork()
    feeder.after_fork_in_parent()
    assert feeder.flush(PATIENCE, stop=True)
    assert spawner.sender(1).read_to_end() == [HELLO, event(1), END]


def test_the_mark_of_a_fork_tears_no_line(watched, spawner):
    """When a full pipe has half a line, the mark comes behind that line, and counts as no event."""
    big = event(1, 200_000)
    watched.put(big)
    sender = spawner.sender(1)
    wait_until(sender.is_full)
    watched.before_fork()
    watched.after_fork_in_parent()
    done = threading.Thread(target=sender.read, args=(event(2),))
    done.start()
    watched.put(event(2))
    done.join(PATIENCE)
    assert sender.received.splitlines() == [HELLO, big, FORKED, event(2)]
    wait_until(lambda: watched.counts.handed_over == 2)


def test_a_mark_may_come_while_its_event_is_written():
    """A signal handler may fork between a write and the note of it."""
    outbox = Outbox()
    outbox.add(b"first")
    taken = bytes(outbox.rest())
    outbox.append(b"mark")
    assert outbox.wrote(len(taken)) == 0
    rest = bytes(outbox.rest())
    assert taken + rest == b"first\nmark\n"
    assert outbox.wrote(len(rest)) == 1


# The options, in the hello


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"report_crash": 1}, "report_crash must be True, False or the name of an event, not 1"),
        ({"report_crash": ""}, "report_crash must be True, False or the name of an event, not ''"),
        ({"report_crash": None}, "report_crash must be True, False or the name of an event, not None"),
        ({"report_hang_after": 0}, "report_hang_after must be a positive number of seconds, or None, not 0"),
        ({"report_hang_after": -1.5}, "report_hang_after must be a positive number of seconds, or None, not -1.5"),
        ({"report_hang_after": True}, "report_hang_after must be a positive number of seconds, or None, not True"),
        ({"report_hang_after": "5"}, "report_hang_after must be a positive number of seconds, or None, not '5'"),
    ],
)
def test_a_wrong_option_raises_where_it_is_given(options, message):
    """It is a mistake in the host's own code."""
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Telemetry(app="tool", **options)


@pytest.mark.parametrize(
    ("crash", "expected", "name"),
    [(True, True, "run_vanished"), ("tool_died", True, "tool_died"), (False, False, "run_vanished")],
)
def test_the_watch_says_which_process_and_which_reports(new_client, crash, expected, name):
    """The process by its number and start time; a hang is only looked for where the signal is ours."""
    client = new_client(in_app=("mine", "ours"))
    watch = Watch(**LastWords(crash=crash, hang_after=300, client=client, consent=Consent("on", "")).watch())
    assert (watch.pid, watch.crash, watch.vanished, watch.hang_after) == (os.getpid(), expected, name, None)
    assert watch.own == ("mine", "ours")
    assert 0 <= time.time() - watch.began < 60
    if Path("/proc/self/stat").exists():
        ticks = os.sysconf("SC_CLK_TCK")
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        assert 0 <= uptime - watch.started / ticks < 24 * 3600


# On every system

KILLED = """
import sys
from atotelemetry import Telemetry
telemetry = Telemetry(app="tool", app_version="1", api_key="phc_test", host=sys.argv[1], notice=None, report_crash=True)
telemetry.capture_event("built")
print(telemetry.flush(20, delivered=True), flush=True)
sys.stdin.read()
"""


def test_a_run_that_is_killed_is_reported(server):
    """Also where no signal tells how it ended."""
    command = [sys.executable, "-c", KILLED, server.url]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ATOTELEMETRY_OFF": ""},
    ) as host:
        assert host.stdout.readline() == "True\n"
        host.kill()
    built, report = server.wait_for_events(2)
    assert (built["event"], report["event"]) == ("built", "run_vanished")
    assert report["properties"]["outcome"] in ("killed", "unknown")
    assert report["distinct_id"] == built["distinct_id"]
