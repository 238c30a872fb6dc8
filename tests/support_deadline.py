"""Senders that must be gone in time."""

import pytest

from support_processes import SLOWER

SHORT = 1.2 * SLOWER  # where it is waited for by one test alone
# A machine that is busy with other things starts processes and threads late: then once more, and then once more. A
# sender that is late for another reason is late each time.
GRACE = 2.0 * SLOWER
ATTEMPTS = 3


def in_time(run, deadline):
    """Return what is left of a sender that was gone in time; `run` may try again when the machine was busy."""
    for _ in range(ATTEMPTS):
        done = run()
        if done.seconds <= deadline + GRACE:
            return done
    pytest.fail(f"late {ATTEMPTS} times: gone {done.seconds:.2f} s after the end of input, deadline {deadline} s")
