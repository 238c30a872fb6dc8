"""Source for hosts that fork."""

from __future__ import annotations

# Shows every warning: from 3.12 on, Python has one for a program that forks while it has threads.
WARN = ("-W", "always")


# Waits for a child and passes its failure on.
WAIT = """
def wait_for(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code
"""
