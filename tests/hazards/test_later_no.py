"""A no that comes while the program runs: what is queued is dropped, and nothing takes the no back."""

from __future__ import annotations

import pytest

from atotelemetry.testing import Answer
from support_home import ID
from support_hosts import needs_senders
from support_processes import go_on

pytestmark = needs_senders

# One event has arrived; the test stops the sender; then events fill pipe and queue.
STUCK = """
client = new_client(queue_size=200, max_retries=0)
hand_over_one(client, "before")
for number in range(150):
    client.capture("after", distinct_id="me", properties={"padding": "x" * 4000})
wait_until(lambda: client.stats.queued < 150)
"""
ADDS_UP = """
stats = client.stats
say(stats.captured == stats.queued + stats.dropped + stats.handed_over)
say((stats.handed_over, stats.on_the_way) == (stats.delivered + stats.lost, 0))
"""


def names(hosts):
    return [event["event"] for event in hosts.server.events]


def test_what_waits_in_queue_pipe_and_sender_is_dropped(hosts):
    """With a sender that is stuck and a pipe that is full in the middle of a line: nothing of it is ever posted."""
    host = hosts.start(
        STUCK
        + """
client.disabled = True
say(client.capture("later", distinct_id="me"))
wait_until(lambda: client.stats.queued == 0)
say(set(client.stats.dropped_by_reason) == {"disabled"})
hear()
client.flush(20, delivered=True)
stats = client.stats
say(stats.delivered, set(stats.lost_by_reason) <= {"disabled", "unreadable line"})
"""
        + ADDS_UP
    )
    sender = hosts.stop_the_sender(host)
    assert host.hear() == "None"
    assert host.hear() == "True"
    go_on(sender)
    host.tell()
    done = host.assert_ends(stdout=None)
    assert done.stdout.splitlines() == ["1 True", "True", "True"]
    hosts.wait_until_no_sender()
    assert names(hosts) == ["before"]


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "client.shutdown()",
        "client.flush()",
        pytest.param("os.fork() or os._exit(0)", marks=pytest.mark.posix("forks")),
    ],
)
def test_a_no_just_before_the_end(hosts, ending):
    """However the program goes on or ends after the no, its last words to the sender are to discard."""
    hosts.server.respond(Answer(delay=0.4))
    hosts.assert_runs(
        f"""
client = new_client(endpoint="capture")
for number in range(20):
    client.capture(f"event {{number}}", distinct_id="me")
handed_over(client, 20)
client.disabled = True
{ending}
""",
        stdout=None,
    )
    hosts.wait_until_no_sender()
    assert len(names(hosts)) <= 4, names(hosts)  # as many as may be on their way at once


@pytest.mark.parametrize("ending", ["", "client.shutdown()", "client.flush(); client.shutdown()"])
def test_an_end_without_a_no_discards_nothing(hosts, ending):
    """The counter-check: exit and `shutdown` close, and everything arrives."""
    hosts.server.respond(Answer(delay=0.05))
    source = """
client = new_client(endpoint="capture")
for number in range(20):
    client.capture(f"event {number}", distinct_id="me")
handed_over(client, 20)
"""
    hosts.assert_runs(source + ending, stdout=None)
    hosts.assert_arrived_once(*(f"event {number}" for number in range(20)))


def test_a_no_may_be_taken_back_by_the_program(hosts):
    """A host's own switch: what was captured before the no is dropped, what is captured after it arrives."""
    host = hosts.start(
        STUCK
        + """
client.disabled = True
client.disabled = False
say(client.capture("again", distinct_id="me") is not None)
hear()
say(client.flush(20), client.stats.dropped_by_reason.get("disabled", 0) > 0)
"""
    )
    sender = hosts.stop_the_sender(host)
    assert host.hear() == "True"
    go_on(sender)
    host.tell()
    host.assert_ends(stdout="True True\n")
    hosts.wait_until_no_sender()
    assert sorted(names(hosts)) == ["again", "before"]


def test_a_no_in_the_middle_of_a_capture(hosts):
    """The event that is being made is dropped, too; a yes after it holds for the next one."""
    hosts.assert_runs(
        """
def before_send(message):
    if message["event"] == "caught":
        client.disabled = True
    return message
client = new_client(before_send=before_send)
say(client.capture("caught", distinct_id="me"), client.stats.dropped_by_reason)
client.disabled = False
client.capture("taken", distinct_id="me")
say(client.flush(20), client.stats.captured, client.stats.handed_over)
""",
        stdout="None {'disabled': 1}\nTrue 2 1\n",
    )
    hosts.server.wait_for_events(1)
    hosts.wait_until_no_sender()
    assert names(hosts) == ["taken"]


def test_a_no_with_nothing_queued_starts_nothing(hosts):
    """The first word of a program may be no: no thread, no process."""
    hosts.assert_runs(
        """
import _thread
client = new_client()
client.disabled = True
client.disabled = False
client.disabled = True
say(threading.active_count(), _thread._count())
""",
        stdout="1 0\n",
    )
    assert hosts.server.connection_count == 0


APPLICATION = f"""
from atotelemetry.host import consent
from atotelemetry.host.choice import choice_path
consent.LOOK_AGAIN = 0.05
os.environ.pop("XDG_CONFIG_HOME", None)
file = choice_path("mytool")

def write(word):
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(file + "~", "w") as stream:
        stream.write(f"id: {ID}\\ntelemetry: {{word}}\\n")
    os.replace(file + "~", file)

def leave_no_file():
    import shutil
    home = os.environ["HOME"]
    shutil.rmtree(os.path.join(home, os.path.relpath(file, home).split(os.sep)[0]))

write("true")
def make(**options):
    return atotelemetry.Telemetry(
        app="mytool", api_key="k", host=os.environ["TEST_SERVER"], run_properties=(), sender_deadline=10.0, **options
    )
telemetry = make()
client = telemetry.client
telemetry.capture_event("first")
client.flush(20, delivered=True)
"""


def test_a_long_lived_program_sees_the_file_change(hosts):
    """From the next look on nothing is sent, the client is disabled, and no later yes takes that back."""
    done = hosts.assert_runs(
        APPLICATION
        + """
write("false")
time.sleep(0.1)
telemetry.capture_event("after the no")
client.flush(20, delivered=True)
telemetry.capture_event("later")
say(client.disabled, client.stats.dropped_by_reason)
write("true")
time.sleep(0.1)
client.disabled = False
say(telemetry.capture_event("after another yes"), client.disabled)
client.flush(20, delivered=True)
leave_no_file()
""",
        stdout=None,
    )
    assert done.stdout == "True {'disabled': 1}\nNone True\n"
    hosts.assert_arrived_once("first")


def test_a_look_is_one_stat_a_minute(hosts):
    """Thousands of events cost no more than one `stat`, and none where a variable has decided."""
    hosts.assert_runs(
        APPLICATION
        + """
looks = []
stat = os.stat
def note(path, *arguments, **options):
    if path == file:
        looks.append(path)
    return stat(path, *arguments, **options)
os.stat = note
consent.LOOK_AGAIN = 60.0
for number in range(100):
    telemetry.capture_event("more")
    if number % 20 == 0:
        client.flush(20)
say(len(looks))
client.flush(20, delivered=True)
consent.LOOK_AGAIN = 0.0
os.environ["MYTOOL_TELEMETRY"] = "on"
other = make()
other.capture_event("by variable")
looks.clear()
write("false")
other.capture_event("by variable")
say(other.client.flush(20, delivered=True), len(looks))
leave_no_file()
""",
        stdout="0\nTrue 0\n",
        arrived=["first", *["more"] * 100, *["by variable"] * 2],
    )


@pytest.mark.parametrize("content", ["telemetry: false", "telemetry: [", ""])
def test_a_file_that_says_no_by_the_time_its_id_is_read(hosts, content):
    """Off or damaged then is off now, for good."""
    hosts.assert_runs(
        APPLICATION
        + f"""
other = make()
with open(file, "w") as stream:
    stream.write({content!r})
say(other.capture_event("late"), other.client.disabled)
write("true")
other.client.disabled = False
say(other.capture_event("later"))
say(threading.active_count() <= 2)
leave_no_file()
""",
        stdout="None True\nNone\nTrue\n",
        arrived=["first"],
    )


def test_a_person_who_disables_within_the_program(hosts):
    """`telemetry.disable()` holds for the run in which it is called."""
    hosts.server.respond(Answer(delay=0.4))
    hosts.assert_runs(
        APPLICATION
        + """
telemetry = make(endpoint="capture")
for number in range(20):
    telemetry.capture_event(f"event {number}")
handed_over(telemetry.client, 20)
say(telemetry.disable().exit_code)
telemetry.client.disabled = False
say(telemetry.capture_event("later"))
leave_no_file()
""",
        stdout="0\nNone\n",
    )
    hosts.wait_until_no_sender()
    assert len(names(hosts)) <= 5, names(hosts)  # "first", and as many as may be on their way at once


@pytest.mark.posix("forks")
@pytest.mark.parametrize("how", ["DO_NOT_TRACK", "file"])
def test_consent_is_a_lock_through_forks_and_children(hosts, how):
    """No assignment, fork or child of `multiprocessing` opens what consent refused."""
    hosts.assert_runs(
        APPLICATION
        + f"""
import multiprocessing
if {how!r} == "file":
    write("false")
else:
    os.environ["DO_NOT_TRACK"] = "1"
telemetry = make()

def attempt():
    telemetry.client.disabled = True
    telemetry.client.disabled = False
    telemetry.capture_event("revived")
    telemetry.client.capture("revived", distinct_id="me")
    telemetry.client.flush(20, delivered=True)

attempt()
pid = os.fork()
if not pid:
    attempt()
    os._exit(0)
os.waitpid(pid, 0)
process = multiprocessing.get_context("fork").Process(target=attempt)
process.start()
process.join()
say(process.exitcode)
leave_no_file()
""",
        stdout="0\n",
        arrived=["first"],
    )
