"""A host that forks: each process sends its own events once, and none keeps another's sender alive."""

from __future__ import annotations

import os
import sys

import pytest

from support_hosts import WARN, needs_proc
from support_processes import go_on

pytestmark = [needs_proc, pytest.mark.posix("forks")]


def test_parent_and_child_send_their_own(hosts):
    """`os.fork` with events before, in the child and after: each arrives once; counts start anew in the child."""
    hosts.assert_runs(
        """
client = new_client()
client.capture("before", distinct_id="me")
pid = os.fork()
if pid == 0:
    assert client.stats.captured == 0
    client.capture("child", distinct_id="me")
    sys.exit(0)  # by the ordinary way out, with its hooks
client.capture("after", distinct_id="me")
wait_for(pid)
client.capture("later", distinct_id="me")
assert client.stats.captured == 3
""",
        arrived=["before", "child", "after", "later"],
    )


@pytest.mark.parametrize("strictly", [(), WARN], ids=["as usual", "-W always"])
def test_a_fork_brings_no_warning_about_a_thread_of_ours(hosts, strictly):
    """Python 3.12 and later warn a program with threads that forks: a program that has none itself is not warned."""
    hosts.assert_runs(
        """
client = new_client()
for number in range(20):
    client.capture(f"parent {number}", distinct_id="me")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    wait_for(pid)
""",
        options=strictly,
        arrived=[f"parent {number}" for number in range(20)],
    )


def test_a_child_that_leaves_by_exit_underscore_has_handed_over(hosts):
    """Forked workers often end by `os._exit`: with a `flush` before, nothing of theirs is lost."""
    hosts.assert_runs(
        """
client = new_client()
client.capture("before", distinct_id="me")
wait_for(forked("child"))
""",
        arrived=["before", "child"],
    )


def test_a_child_forked_while_the_parents_queue_is_full_does_not_send_it_again(hosts):
    """Fork with events still queued (their sender is stuck): the parent's arrive once, the child's are not behind."""
    host = hosts.start(
        """
client = new_client(queue_size=50)
hand_over_one(client)
names = ["event 0"]
for number in range(1, 300):
    if client.capture(f"event {number}", distinct_id="me", properties={"padding": "x" * 4000}):
        names.append(f"event {number}")
wait_for(forked("child"))
say("forked")
hear()
assert client.flush(20)
print(*names, sep="\\n")
""",
        options=WARN,
    )
    sender = hosts.stop_the_sender(host)
    assert host.hear() == "forked"
    hosts.server.wait_for_events(2)
    assert set(hosts.arrived()) == {"event 0", "child"}
    go_on(sender)
    host.tell()
    done = host.assert_ends(stdout=None)
    hosts.assert_arrived_once("child", *done.stdout.splitlines())


def test_a_fork_does_not_wait_for_a_stuck_sender(hosts):
    """Ten forks with the sender stopped and its pipe full: no warning, a moment each, and nothing lost in the end."""
    host = hosts.start(
        """
client = new_client(queue_size=2000)
hand_over_one(client)
started = time.monotonic()
for number in range(10):
    for each in range(100):
        client.capture(f"event {number * 100 + each + 1}", distinct_id="me", properties={"padding": "x" * 1000})
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    wait_for(pid)
say(time.monotonic() - started < 15)  # ten times a quarter of a second; unlimited, if a fork waited for the sender
hear()
assert client.flush(20), client.stats
assert client.stats.handed_over == 1001, client.stats
""",
        options=WARN,
    )
    sender = hosts.stop_the_sender(host)
    try:
        assert host.hear() == "True"
    finally:
        go_on(sender)
    host.tell()
    host.assert_ends(stdout=None)
    hosts.assert_arrived_once(*(f"event {number}" for number in range(1001)))


def test_a_child_that_lives_on_does_not_keep_the_parents_sender(hosts):
    """The CLI forks a daemon and dies: its sender sees the end of its input although the daemon lives, and ends."""
    host = hosts.start(
        """
client = new_client()
client.capture("parent", distinct_id="me")
handed_over(client, 1)
if os.fork() == 0:
    os.setsid()
    say(os.getpid())
    hear()
    client.capture("child", distinct_id="me")
    os._exit(0 if client.flush(20) else 1)
signal.pause()
"""
    )
    child = int(host.hear())
    hosts.wait_for_senders()
    host.process.kill()  # no word to the sender: only the closed pipe says it
    hosts.wait_until_no_sender()  # its own idle end would come after twice that time
    os.kill(child, 0)  # still there
    host.tell()
    assert host.finish().stderr == ""
    hosts.assert_arrived_once("parent", "child")


def test_grandchildren(hosts):
    """Forks of forks, each before and after events of its own: every event arrives once."""
    hosts.assert_runs(
        """
client = new_client()
def generation(depth, path):
    client.capture(f"{path} before", distinct_id="me")
    if depth:
        for branch in "ab":
            pid = os.fork()
            if pid == 0:
                generation(depth - 1, path + branch)
                client.flush(20)
                os._exit(0)
            wait_for(pid)
    client.capture(f"{path} after", distinct_id="me")
generation(2, "/")
"""
    )
    paths = ["/", "/a", "/b", "/aa", "/ab", "/ba", "/bb"]
    hosts.assert_arrived_once(*(f"{path} {when}" for path in paths for when in ("before", "after")))


def test_preload_then_several_workers(hosts):
    """Gunicorn style: the application is loaded, and has captured, before the workers are forked from it."""
    hosts.assert_runs(
        """
client = new_client()
client.capture("preload", distinct_id="me")
workers = []
for worker in range(4):
    pid = os.fork()
    if pid == 0:
        for number in range(3):
            client.capture(f"worker {worker} {number}", distinct_id="me")
        sys.exit(0)
    workers.append(pid)
client.capture("arbiter", distinct_id="me")
for pid in workers:
    wait_for(pid)
""",
        arrived=["preload", "arbiter", *(f"worker {worker} {number}" for worker in range(4) for number in range(3))],
    )


@pytest.mark.parametrize("flushed", [True, False])
def test_a_fork_after_the_client_was_idle_or_flushed(hosts, flushed):
    """Workers forked before the first event, or after a flush: no sender to inherit, and each starts its own."""
    hosts.assert_runs(
        f"""
client = new_client()
if {flushed}:
    client.capture("early", distinct_id="me")
    assert client.flush(20, delivered=True)
pid = os.fork()
client.capture("child" if pid == 0 else "parent", distinct_id="me")
if pid:
    wait_for(pid)
""",
        arrived=["parent", "child", *(["early"] if flushed else [])],
    )


MULTIPROCESSING = """
import multiprocessing

def work(number):
    global client
    client = globals().get("client") or new_client()
    client.capture(f"worker {number}", distinct_id="me")
    client.capture(f"worker {number} again", distinct_id="me")
    return number

if __name__ == "__main__":
    client = new_client()
    client.capture("parent", distinct_id="me")
    context = multiprocessing.get_context(sys.argv[1])
"""


def of_parent_and_workers(count):
    return ["parent", *(f"worker {number}{again}" for number in range(count) for again in ("", " again"))]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_process(hosts, method):
    """`multiprocessing.Process`, every start method: the child's events arrive although it leaves by `os._exit`."""
    hosts.assert_runs(
        MULTIPROCESSING
        + """
    processes = [context.Process(target=work, args=(number,)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0, process.exitcode
""",
        method,
        options=("-W", "error") if sys.version_info < (3, 12) or method != "fork" else WARN,
        arrived=of_parent_and_workers(2),
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_pool(hosts, method):
    """`ProcessPoolExecutor`, every start method: the events of its workers arrive once."""
    hosts.assert_runs(
        MULTIPROCESSING
        + """
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(work, range(6))) == list(range(6))
""",
        method,
        arrived=of_parent_and_workers(6),
    )


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="a thread after a fork would be warned of")
def test_a_parent_that_only_forks_has_no_zombie(hosts):
    """A preforking server that captured before its forks and never again: the sender that has ended is reaped."""
    host = hosts.start(
        """
client = new_client()
client.capture("preload", distinct_id="me")
client.flush()
pid = os.fork()
if pid == 0:
    os._exit(0)
wait_for(pid)
say("forked")
hear()
"""
    )
    assert host.hear() == "forked"
    hosts.server.wait_for_events(1)
    host.wait_for_children()
    host.tell()
    assert host.finish().returncode == 0


@pytest.mark.parametrize("module", ["pty", "os.forkpty"])
def test_a_host_that_starts_a_terminal_of_its_own(hosts, module):
    """`pty.fork` and `os.forkpty` are forks, too."""
    hosts.assert_runs(
        f"""
import pty
client = new_client()
client.capture("parent", distinct_id="me")
pid, terminal = {"pty.fork()" if module == "pty" else "os.forkpty()"}
if pid == 0:
    client.capture("child", distinct_id="me")
    client.flush(20)
    os._exit(0)
wait_for(pid)
""",
        arrived=["parent", "child"],
    )
