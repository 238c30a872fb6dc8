"""The subcommands for people, one module each, and the function that mounts them in another command line."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from atotelemetry.host.telemetry import Telemetry

__all__ = ["telemetry_command"]


def telemetry_command(argv: Sequence[str], telemetry: Telemetry) -> int:
    """Be `mytool telemetry …`: run the subcommand in `argv` for the application of `telemetry`.

    `argv` is everything behind the word: `status [--json]`, `enable`, `disable` or `show [--exception] [--json]`, or
    `--help`. Returns the exit code: 0, 1 (it could not be done) or 2 (called wrongly). Prints, and never raises.
    """
    from atotelemetry.command.mount import run  # no measured run pays for argparse

    return run(argv, telemetry)
