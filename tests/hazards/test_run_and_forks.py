"""A run that forks is one run: the children that leave its block are not its end."""

from __future__ import annotations

import shutil

import pytest

from support_hosts import needs_proc

pytestmark = [needs_proc, pytest.mark.posix("forks")]


def test_children_are_no_end(hosts):
    """Children that leave by `sys.exit` send their own events, and report what fails; the pair is the parent's."""
    hosts.assert_runs(
        """
telemetry = atotelemetry.Telemetry(app="host", api_key="phc_test", host=os.environ["TEST_SERVER"], notice=None)

@telemetry.run
def main():
    for failing in (False, True):
        child = os.fork()
        if not child:
            telemetry.capture_event("work")
            sys.stderr = open(os.devnull, "w")
            if failing:
                raise KeyError("R1")
            sys.exit(0)
        os.waitpid(child, 0)

main()
""",
        stdout=None,
    )
    hosts.wait_until_no_sender()
    hosts.assert_arrived_once("cli:start", "cli:end", "work", "work", "$exception")
    shutil.rmtree(hosts.home / ".config")  # the installation's id, which the first event made
