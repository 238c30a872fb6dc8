"""Code that runs in the middle of a `capture`, on the same thread, and captures itself: signal handlers, finalizers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from support_hosts import needs_senders

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

PLAIN = "{'number': number}"
ODD = "{'number': number, 'odd': object, 'set': {1, 2}, 'surrogate': '\\udc80', 'nested': [{'deep': print}]}"

# Ends a host: every event was taken, none was dropped, and the counts say so.
ALL_TAKEN = """
if hasattr(signal, "setitimer"):
    signal.setitimer(signal.ITIMER_REAL, 0)
# A signal that another thread had got already may still come, and its event is one for the next flush.
wait_until(lambda: client.flush(20) is True and not client.stats.queued)
stats = client.stats
assert stats.captured == stats.handed_over and not stats.dropped and not stats.queued, stats
say(stats.captured)
"""


def assert_all_numbered(hosts: Hosts, captured: str) -> Counter[str]:
    """Every event arrived once: each event name's numbers are there without a gap. Returns how many of each."""
    hosts.server.wait_for_events(int(captured), timeout=30)
    hosts.wait_until_no_sender()
    numbers: dict[str, list[int]] = {}
    # A backlog comes in several requests at once; the ids, like the timestamps, say in which order it was captured.
    for event in sorted(hosts.server.events, key=lambda event: event["uuid"]):
        numbers.setdefault(event["event"], []).append(event["properties"]["number"])
    for name, found in numbers.items():
        assert sorted(found) == list(range(len(found))), f"{name}: lost or doubled"
        # A handler may interrupt another one, before that has captured.
        assert name != "main" or found == sorted(found), f"{name}: out of order"
    counts = Counter({name: len(found) for name, found in numbers.items()})
    assert counts.total() == int(captured)
    return counts


@pytest.mark.posix("SIGALRM")
@pytest.mark.parametrize("properties", [PLAIN, ODD], ids=["plain", "odd"])
def test_signal_handler_that_captures(hosts: Hosts, properties: str) -> None:
    """A signal every half millisecond interrupts a loop of captures, and its handler captures, too."""
    source = f"""
client = new_client(queue_size=100_000)
number = 0
client.capture("main", distinct_id="me", properties={properties})
ticks = 0
def handler(signal_number, frame):
    global ticks
    number = ticks
    ticks += 1
    assert client.capture("handler", distinct_id="me", properties={properties})
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
ends_at = time.monotonic() + 0.5
while (ticks < 100 or time.monotonic() < ends_at) and number < 5000:
    number += 1
    assert client.capture("main", distinct_id="me", properties={properties})
"""
    done = hosts.assert_runs(source + ALL_TAKEN, stdout=None)
    counts = assert_all_numbered(hosts, done.stdout)
    assert counts["handler"] >= 10


@pytest.mark.posix("SIGALRM")
def test_signal_handler_during_the_first_event(hosts: Hosts) -> None:
    """A signal while the first event still loads what it needs: nothing is raised, and the counts add up."""
    source = """
client = new_client(queue_size=100_000)
taken = []
def handler(signal_number, frame):
    taken.append(client.capture("handler", distinct_id="me"))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
for _ in range(50):
    taken.append(client.capture("main", distinct_id="me"))
signal.setitimer(signal.ITIMER_REAL, 0)
# A signal that another thread had got already may still come, and its event is one for the next flush.
wait_until(lambda: client.flush(20) is True and not client.stats.queued)
stats = client.stats
uuids = [uuid for uuid in taken if uuid]
assert (stats.captured, stats.handed_over, stats.queued) == (len(taken), len(uuids), 0), stats
say(len(uuids))
"""
    done = hosts.assert_runs(source, options=("-X", "dev", "-W", "error"), stdout=None)
    hosts.server.wait_for_events(int(done.stdout))
    hosts.wait_until_no_sender()
    assert hosts.arrived()["main"] == 50
    assert hosts.arrived().total() == int(done.stdout)


@pytest.mark.parametrize("properties", [PLAIN, ODD], ids=["plain", "odd"])
def test_garbage_collector_that_captures(hosts: Hosts, properties: str) -> None:
    """`__del__` and weakref callbacks that the garbage collector runs in the middle of a capture."""
    source = f"""
import gc, weakref
client = new_client(queue_size=100_000)
deleted = called = 0
class Cycle:
    def __init__(self):
        self.me = self
    def __del__(self):
        global deleted
        number = deleted
        deleted += 1
        assert client.capture("deleted", distinct_id="me", properties={properties})
class Watched:
    def __init__(self):
        self.me = self
def callback(_):
    global called
    number = called
    called += 1
    assert client.capture("called back", distinct_id="me", properties={properties})
watchers = []
class Littering(dict):
    def items(self):
        Cycle()
        watchers.append(weakref.ref(Watched(), callback))
        return super().items()
client.capture("first", distinct_id="me", properties={{"number": 0}})
gc.set_threshold(3)
for number in range(500):
    Cycle()
    watchers.append(weakref.ref(Watched(), callback))
    context = Littering(a=1) if number % 2 else None
    assert client.capture("main", distinct_id="me", properties={properties}, context=context)
gc.collect()
"""
    done = hosts.assert_runs(source + ALL_TAKEN, stdout=None)
    counts = assert_all_numbered(hosts, done.stdout)
    assert counts["main"] == 500
    assert counts["deleted"] >= 500
    assert counts["called back"] >= 500


def test_value_that_captures_while_it_is_encoded(hosts: Hosts) -> None:
    """A property whose `__repr__` captures: its own event arrives, and the one that it stands in."""
    source = """
client = new_client()
class Chatty:
    def __repr__(self):
        client.capture("inner", distinct_id="me", properties={"number": 0})
        return "chatty"
client.capture("outer", distinct_id="me", properties={"number": 0, "chatty": Chatty()})
"""
    done = hosts.assert_runs(source + ALL_TAKEN, stdout=None)
    assert assert_all_numbered(hosts, done.stdout) == {"inner": 1, "outer": 1}
    assert next(event for event in hosts.server.events if event["event"] == "outer")["properties"]["chatty"] == "chatty"


def test_value_that_captures_itself(hosts: Hosts) -> None:
    """A property whose `__repr__` captures that very object, without end: the host lives on and so does telemetry."""
    source = """
client = new_client(queue_size=100_000)
class Endless:
    def __repr__(self):
        client.capture("inner", distinct_id="me", properties={"endless": self})
        return "endless"
client.capture("outer", distinct_id="me", properties={"endless": Endless()})
client.capture("next", distinct_id="me")
assert client.flush(20) is True
stats = client.stats
assert stats.captured == stats.handed_over + stats.dropped, stats
"""
    hosts.assert_runs(source)
    hosts.server.wait_for_events(2)
    hosts.wait_until_no_sender()
    assert hosts.arrived()["next"] == 1


@pytest.mark.posix("SIGALRM")
@pytest.mark.parametrize("properties", [PLAIN, ODD], ids=["plain", "odd"])
def test_ctrl_c_in_the_middle_of_a_capture(hosts: Hosts, properties: str) -> None:
    """KeyboardInterrupt is the host's: it comes out of `capture`, which works on afterwards."""
    source = f"""
client = new_client(queue_size=100_000)
number = 0
# Ctrl-C in the middle of an import makes Python itself print a traceback: the imports come first.
client.capture("first", distinct_id="me", properties={properties})
handed_over(client, 1)
armed = False
def handler(signal_number, frame):
    if armed:
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
interrupted = number = 0
while interrupted < 100:
    try:
        armed = True
        while True:
            number += 1
            client.capture("main", distinct_id="me", properties={properties})
    except KeyboardInterrupt:
        armed = False
        interrupted += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert client.capture("last", distinct_id="me")
assert client.flush(20) is True
stats = client.stats
# Of an event that was interrupted at the very queue, nobody knows whether it is in there.
assert 0 <= stats.queued and stats.queued + stats.dropped <= interrupted, stats
assert stats.dropped_by_reason.keys() == {{"interrupted"}}, stats
say(stats.handed_over)
"""
    done = hosts.assert_runs(source, stdout=None)
    hosts.server.wait_for_events(int(done.stdout), timeout=30)
    hosts.wait_until_no_sender()
    arrived = hosts.arrived()
    assert arrived.total() == int(done.stdout)
    assert arrived["first"] == arrived["last"] == 1


def test_two_threads_that_import_what_the_other_one_holds(hosts: Hosts) -> None:
    """A finalizer captures in the middle of an import, while another thread's first event waits for that import."""
    source = """
import importlib.machinery
assert "datetime" not in sys.modules
client = new_client()
class Captures:
    def __del__(self):
        client.capture("finalizer", distinct_id="me")
waiting = threading.Event()
load = importlib.machinery.SourceFileLoader.exec_module
def waits_for_datetime():
    return lazy._importing == ["datetime"]
def slowly(self, module):
    if module.__name__ == "datetime":
        other.start()
        wait_until(waits_for_datetime)
        Captures()
    return load(self, module)
from atotelemetry.host import lazy
importlib.machinery.SourceFileLoader.exec_module = slowly
other = threading.Thread(target=client.capture, args=("other",), kwargs={"distinct_id": "me"})
import datetime
other.join()
client.capture("last", distinct_id="me")
assert client.flush(20)
say(*client.stats.dropped_by_reason)
"""
    hosts.assert_runs(source, stdout="error\n", arrived=["other", "last"])


def test_import_lock_that_ctrl_c_left_locked(hosts: Hosts) -> None:
    """Ctrl-C in the wrong moment of an import locks out every other thread that imports: our thread imports nothing."""
    source = """
import _imp
for name in ("select", "signal", "enum"):
    sys.modules.pop(name, None)  # as in a host that never needed them
client = new_client(queue_size=1000)
_imp.acquire_lock()  # what CPython leaves behind
for number in range(500):
    assert client.capture("main", distinct_id="me", properties={"number": number, "ballast": "x" * 1000})
assert client.flush(10) is True
"""
    hosts.assert_runs(source, arrived=["main"] * 500)


def test_capture_at_the_end_of_the_stack(hosts: Hosts) -> None:
    """A host that recurses to the interpreter's limit and captures on every level: only its own error comes out."""
    source = """
client = new_client(queue_size=100_000)
client.capture("first", distinct_id="me")
def capture_at(depth, properties):
    if depth:
        return capture_at(depth - 1, properties)
    try:
        client.capture("deep", distinct_id="me", properties=properties)
    except RecursionError:
        return "raised"
    return "fine"
outcomes = []
for depth in range(sys.getrecursionlimit()):
    try:
        outcomes.append(capture_at(depth, {"odd": object} if depth % 2 else {}))
    except RecursionError:
        break
# On the very last levels not even a method can be called.
assert len(outcomes) > 900, len(outcomes)
assert outcomes[:-5].count("raised") == 0 and outcomes.count("fine") >= len(outcomes) - 5, outcomes[-20:]
assert client.capture("last", distinct_id="me")
assert client.flush(20) is True
assert 0 <= client.stats.queued <= 5, client.stats  # there, not even a loss can be counted
"""
    hosts.assert_runs(source)
    hosts.wait_until_no_sender()
    assert hosts.arrived()["first"] == hosts.arrived()["last"] == 1
