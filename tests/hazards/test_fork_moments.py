"""A fork at a bad moment: in a signal handler, in another fork, while other threads capture or a sender starts."""

from __future__ import annotations

import pytest

from support_hosts import WARN, needs_proc

pytestmark = [needs_proc, pytest.mark.posix("forks")]


def test_forks_while_other_threads_capture(hosts):
    """Fork after fork while threads are inside `capture`: no child hangs, nothing comes twice, nothing is lost."""
    done = hosts.assert_runs(
        """
client = new_client(queue_size=100_000)
going = True
counts = [0, 0]
def work(thread):
    while going:
        counts[thread] += client.capture(f"thread {thread} {counts[thread]}", distinct_id="me") is not None
        time.sleep(0.0005)
threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
children = []
for number in range(50):
    pid = os.fork()
    if pid == 0:
        going = False
        if number % 5 == 0:
            client.capture(f"child {number}", distinct_id="me")
        os._exit(0 if client.flush(20) else 1)
    children.append(pid)
for pid in children:
    wait_for(pid)
going = False
for thread in threads:
    thread.join()
assert client.flush(20), client.stats
say(*counts)
""",
        options=("-W", "ignore::DeprecationWarning"),  # Python 3.12 and later warn this host of its own threads
        stdout=None,
    )
    names = [f"child {number}" for number in range(0, 50, 5)]
    for thread, count in enumerate(map(int, done.stdout.split())):
        names += [f"thread {thread} {number}" for number in range(count)]
    hosts.assert_arrived_once(*names)


def test_forks_while_a_sender_is_being_started(hosts):
    """Fork at every moment of a sender's start: no child inherits a pipe that nobody would close."""
    host = hosts.start(
        """
children = []
for number in range(25):
    client = new_client()
    client.capture(f"event {number}", distinct_id="me")
    time.sleep(number * 0.0002)  # from before the pipe is made to after the sender has started
    pid = os.fork()
    if pid == 0:
        os.close(1)
        hear()
        os._exit(0)
    children.append(pid)
say("forked")
signal.pause()
""",
        options=WARN,
    )
    assert host.hear() == "forked"
    hosts.server.wait_for_events(25, timeout=25)
    host.process.kill()
    hosts.wait_until_no_sender()
    assert host.finish().stderr == ""
    hosts.assert_arrived_once(*(f"event {number}" for number in range(25)))


def test_a_fork_inside_a_signal_handler_that_interrupts_capture(hosts):
    """A signal handler that forks, in the middle of a capture: both processes go on, each event arrives once."""
    done = hosts.assert_runs(
        """
client = new_client(queue_size=100_000)
main = os.getpid()
forks = 0
def handle(*_):
    global forks
    forks += 1
    wait_for(forked(f"child {forks}"))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.signal(signal.SIGALRM, handle)
client.capture("first", distinct_id="me")
signal.setitimer(signal.ITIMER_REAL, 0.01)
number = 0
while forks < 10:
    client.capture(f"parent {number}", distinct_id="me")
    number += 1
    if number % 100 == 0:
        time.sleep(0.001)
signal.setitimer(signal.ITIMER_REAL, 0)
assert os.getpid() == main
assert client.flush(20), client.stats
say(number, forks)
""",
        options=WARN,
        stdout=None,
    )
    count, forks = map(int, done.stdout.split())
    hosts.assert_arrived_once(
        "first",
        *(f"parent {number}" for number in range(count)),
        *(f"child {number + 1}" for number in range(forks)),
    )


def test_a_signal_handler_that_raises_in_the_middle_of_a_fork(hosts):
    """Python prints what a handler raises in a hook around a fork; telemetry goes on, in the parent and in children."""
    done = hosts.run(
        """
class Alarm(Exception):
    pass
def handle(*_):
    raise Alarm
signal.signal(signal.SIGALRM, handle)
client = new_client(queue_size=10_000)
captured = 0
for number in range(200):
    try:
        captured += client.capture("parent", distinct_id="me", properties={"number": number}) is not None
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + number * 0.00001)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        wait_for(pid)
    except Alarm:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
wait_until(lambda: client.flush(20))
say(client.stats.handed_over == client.stats.captured)
wait_for(forked("child"))
"""
    )
    assert (done.returncode, done.stdout) == (0, "True\n")
    hosts.wait_until_no_sender()
    assert hosts.arrived()["child"] == 1


def test_a_fork_while_another_thread_loads_what_an_odd_event_needs(hosts):
    """The first odd event loads more than an ordinary one; a child forked meanwhile can capture such ones, too."""
    hosts.assert_runs(
        """
import importlib.machinery
started, forking = threading.Event(), threading.Event()
load = importlib.machinery.SourceFileLoader.exec_module
def slowly(self, module):
    if module.__name__ == "atotelemetry.host.values":
        started.set()
        assert forking.wait(20)
        time.sleep(0.1)  # a cold disk
    return load(self, module)
importlib.machinery.SourceFileLoader.exec_module = slowly
client = new_client()
client.capture("ordinary", distinct_id="me")
os.register_at_fork(before=forking.set)  # later than ours, so that it is called earlier
thread = threading.Thread(target=client.capture, args=("odd",), kwargs={"distinct_id": 1})
thread.start()
started.wait()
pid = os.fork()
if pid == 0:
    client.capture("child", distinct_id=2)
    os._exit(0 if client.flush(20) else 1)
thread.join()
wait_for(pid)
""",
        options=("-W", "ignore::DeprecationWarning"),  # Python 3.12 and later warn this host of its own thread
        arrived=["ordinary", "odd", "child"],
    )


def test_a_fork_in_the_middle_of_a_fork(hosts):
    """A signal handler that forks interrupts a fork: no process waits for itself, each can start a sender."""
    hosts.assert_runs(
        """
armed = False
def interrupt():
    global armed
    if armed:
        armed = False
        os.kill(os.getpid(), signal.SIGUSR1)
os.register_at_fork(before=interrupt)  # earlier than ours, so that it is called later
def fork(name):
    pid = os.fork()
    if pid == 0:
        if name:
            client.capture(name, distinct_id="me")
        os._exit(0 if client.flush(20) else 1)
    wait_for(pid)
signal.signal(signal.SIGUSR1, lambda *_: fork("inner" if turn == 0 else ""))
client = new_client()
client.capture("before", distinct_id="me")
started = time.monotonic()
for turn in range(10):
    armed = True
    fork("outer" if turn == 0 else "")
say(time.monotonic() - started < 4)
assert client.flush(20)
client.capture("after", distinct_id="me")
handed_over(client, 2)
""",
        stdout="True\n",
        arrived=["before", "inner", "outer", "after"],
    )


def test_a_fork_while_another_thread_captures_its_first_event(hosts):
    """The first event of all loads what events need; a child forked by another thread meanwhile can capture, too."""
    hosts.assert_runs(
        """
client = new_client()
thread = threading.Thread(target=client.capture, args=("first",), kwargs={"distinct_id": "me"})
thread.start()
wait_until(lambda: "msgspec" in sys.modules)
pid = forked("child")
thread.join()
wait_for(pid)
""",
        options=("-W", "ignore::DeprecationWarning"),  # Python 3.12 and later warn this host of its own thread
        arrived=["first", "child"],
    )
