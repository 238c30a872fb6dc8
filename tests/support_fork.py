"""Source for hosts that fork."""

from __future__ import annotations

# Shows every warning: from 3.12 on, Python has one for a program that forks while it has threads.
WARN = ("-W", "always")


# Waits for a child and passes its failure on; forks a child that captures one event, hands it over and leaves.
WAIT = """
def wait_for(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code

def forked(name):
    pid = os.fork()
    if pid == 0:
        client.capture(name, distinct_id="me")
        os._exit(0 if client.flush(20) else 1)
    return pid
"""
