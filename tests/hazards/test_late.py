"""Events captured while the host is already leaving: no traceback, no hang, and what can still be sent is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from support_hosts import PREAMBLE, needs_senders
from support_processes import go_on

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

STRICT = ("-X", "dev", "-W", "error")


@pytest.mark.parametrize("earlier", [True, False], ids=["thread runs", "first event of the process"])
def test_capture_in_exit_hooks(hosts: Hosts, earlier: bool) -> None:
    """Exit hooks registered before and after ours, which comes with the import: the later ones' events arrive.

    Hooks run last in, first out. Since Python 3.12 no thread can be started by then.
    """
    first = """
import atexit
atexit.register(lambda: say("too late", client.capture("after our hook", distinct_id="me")))
"""
    then = f"""
atexit.register(lambda: say(client.capture("before our hook", distinct_id="me") is not None))
client = new_client()
atexit.register(lambda: say(client.capture("before that", distinct_id="me") is not None))
if {earlier}:
    client.capture("earlier", distinct_id="me")
"""
    hosts.assert_runs(
        first + PREAMBLE + then,
        options=STRICT,
        preamble=False,
        stdout="True\nTrue\ntoo late None\n",
        arrived=["before our hook", "before that", *["earlier"] * earlier],
    )


@pytest.mark.parametrize("layer", ["client", "application"])
def test_the_first_capture_of_a_program_in_an_exit_hook(hosts: Hosts, layer: str) -> None:
    """A program that only says how it ended: the client itself is made when the program already leaves."""
    made = {
        "client": "new_client()",
        "application": "atotelemetry.Telemetry(app='host', notice=None, api_key='k', host=SERVER).client",
    }
    source = f"""
import atexit
SERVER = os.environ["TEST_SERVER"]
atexit.register(lambda: {made[layer]}.capture("at exit", distinct_id="me"))
"""
    nowhere = {"XDG_CONFIG_HOME": "/proc/self", "LOCALAPPDATA": "Q:\\nowhere"}
    hosts.assert_runs(source, options=STRICT, environment=nowhere, arrived=["at exit"])


def test_client_made_in_an_exit_hook(hosts: Hosts) -> None:
    """A client that is made when the host already leaves can flush, and need not."""
    source = """
import atexit
@atexit.register
def leave():
    client = new_client()
    client.capture("late", distinct_id="me")
    say(client.flush())
    other = atotelemetry.kept = new_client()
    other.capture("never flushed", distinct_id="me")
"""
    hosts.assert_runs(source, options=STRICT, stdout="True\n", arrived=["late", "never flushed"])


def test_finalizers_at_exit(hosts: Hosts) -> None:
    """`__del__`, weakref callbacks and `weakref.finalize` that run in the last moments of the interpreter."""
    source = """
import builtins, gc, weakref
gc.disable()

class Thing:
    def __init__(self, client, name):
        self.client, self.name = client, name
    def __del__(self):
        self.client.capture(self.name, distinct_id="me")
        self.client.capture_exception(ValueError(self.name))
        self.client.flush(0.1)

client = new_client()
client.capture("ordinary", distinct_id="me")
del_now = Thing(client, "deleted")
del del_now
in_module = Thing(client, "in a module")
builtins.in_builtins = Thing(client, "in builtins")
sys.in_sys = Thing(client, "in sys")
cycle = Thing(client, "in a cycle")
cycle.cycle = cycle
del cycle
watched = Thing(client, "watched")
watcher = weakref.ref(watched, lambda _, client=client: client.capture("weakref callback", distinct_id="me"))
weakref.finalize(watched, client.capture, "finalize", distinct_id="me")
threading.current_thread().left = Thing(client, "in a thread")
local = threading.local()
local.left = Thing(client, "in a thread's own data")
"""
    hosts.assert_runs(source, options=STRICT)
    hosts.server.wait_for_events(3)
    hosts.wait_until_no_sender()
    arrived = hosts.arrived()
    # Whether a finalizer runs before our exit hook is the interpreter's business; nothing may come twice.
    assert arrived["ordinary"] == arrived["deleted"] == 1
    assert max((count for name, count in arrived.items() if name != "$exception"), default=0) == 1


@pytest.mark.parametrize("attempt", range(3))
def test_daemon_threads_that_capture_to_the_end(hosts: Hosts, attempt: int) -> None:
    """Daemon threads in the middle of `capture` while the interpreter is taken down."""
    source = """
client = new_client()
def storm(number):
    count = 0
    while True:
        client.capture("storm", distinct_id="me", properties={"thread": number, "count": count, "odd": storm})
        count += 1
        time.sleep(0)
for number in range(4):
    threading.Thread(target=storm, args=(number,), daemon=True).start()
handed_over(client, 20)
say("end of main")
"""
    hosts.assert_runs(source, options=STRICT if attempt else (), stdout="end of main\n")
    hosts.server.wait_for_events(20)
    hosts.wait_until_no_sender()
    events = hosts.server.events
    assert len({event["uuid"] for event in events}) == len(events)
    for number in range(4):
        counts = [event["properties"]["count"] for event in events if event["properties"]["thread"] == number]
        assert counts == sorted(counts), "out of order"


@pytest.mark.parametrize("first", [True, False], ids=["first event of the process", "thread runs"])
def test_thread_that_ends_after_main(hosts: Hosts, first: bool) -> None:
    """A thread that goes on after the end of the main one; since Python 3.12 it cannot start another thread."""
    source = f"""
client = new_client()
if not {first}:
    client.capture("main", distinct_id="me")
def work():
    threading.main_thread().join()
    for number in range(3):
        client.capture("late", distinct_id="me")
threading.Thread(target=work).start()
"""
    hosts.assert_runs(source, options=STRICT)
    hosts.server.wait_for_events(3 + (not first))
    hosts.wait_until_no_sender()
    assert hosts.arrived() == {"late": 3, **({} if first else {"main": 1})}


def test_threads_that_never_end(hosts: Hosts) -> None:
    """Daemon threads that wait for ever, one of which captured before: the host ends as if they were not there."""
    source = """
client = new_client()
captured = []
def wait():
    captured.append(client.capture("waiting", distinct_id="me"))
    threading.Event().wait()
for _ in range(3):
    threading.Thread(target=wait, daemon=True).start()
wait_until(lambda: len(captured) == 3)
"""
    hosts.assert_runs(source, options=STRICT)
    hosts.server.wait_for_events(3)
    hosts.wait_until_no_sender()
    assert hosts.arrived() == {"waiting": 3}


@pytest.mark.parametrize("ending", ["sys.exit(7)", "raise SystemExit('bye')", "1 / 0", "sys.exit()"])
def test_exit_code_and_last_words_are_the_hosts(hosts: Hosts, ending: str) -> None:
    """However the host ends, its exit code and its stderr are those that it has without telemetry."""
    source = f"""
client = new_client()
client.disabled = client.disabled or sys.argv[1] == "off"
client.capture("started", distinct_id="me")
def in_a_thread():
    client.capture("thread", distinct_id="me")
    sys.exit(3)
thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
{ending}
"""
    script = hosts.command(source)
    on, off = (hosts.run_command([*script, argument]) for argument in ("on", "off"))
    assert (on.returncode, on.stdout, on.stderr) == (off.returncode, off.stdout, off.stderr)
    hosts.assert_arrived_once("started", "thread")


def test_capture_after_shutdown(hosts: Hosts) -> None:
    """After `shutdown` every capture is refused, and another flush or shutdown does no harm."""
    source = """
client = new_client()
client.capture("before", distinct_id="me")
assert client.shutdown() is True
assert client.disabled
for _ in range(2):
    assert client.capture("after", distinct_id="me") is None
    assert client.capture_exception(ValueError()) is None
    assert client.flush() is True
    assert client.shutdown() is True
stats = client.stats
assert (stats.captured, stats.handed_over, stats.dropped, stats.queued) == (1, 1, 0, 0), stats
import _thread
wait_until(lambda: not _thread._count())
"""
    hosts.assert_runs(source, options=STRICT, arrived=["before"])


@pytest.mark.posix("a signal that a process sends itself")
@pytest.mark.parametrize("raises", ["KeyboardInterrupt", "Exception"])
def test_interrupted_while_leaving(hosts: Hosts, raises: str) -> None:
    """An impatient Ctrl-C while the exit waits for a stuck sender: the host ends at once, without a traceback."""
    source = f"""
client = new_client(queue_size=100_000)
def handler(number, frame):
    raise {raises}("from the host's own handler")
signal.signal(signal.SIGINT, handler)
hand_over_one(client, "first")
for _ in range(200):
    client.capture("stuck", distinct_id="me", properties={{"ballast": "x" * 1000}})
def interrupt():
    wait_until(lambda: client.disabled)  # what the exit hook does first
    time.sleep(0.1)
    say(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
"""
    host = hosts.start(source)
    sender = hosts.stop_the_sender(host)
    try:
        done = host.finish()
        ended_at = time.monotonic()
    finally:
        go_on(sender)
    assert (done.returncode, done.stderr) == (0, "")
    assert ended_at - float(done.stdout) < 1.5, "it waited on"
    hosts.server.wait_for_events(1)
    hosts.wait_until_no_sender()
