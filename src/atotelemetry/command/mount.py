"""`mytool telemetry …`: the subcommands for people, mounted in an application's own command line.

Runs in the application's process, when a person calls it. Only the application knows its own settings, and a tool
installed by pipx or `uv tool` puts no `atotelemetry` on the PATH.
"""

from __future__ import annotations

import argparse
import json
import sys

from atotelemetry.command.consent import answer, is_broken_pipe, say
from atotelemetry.command.show import add_options, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from atotelemetry.host.telemetry import Telemetry

__all__ = ["run"]


def run(argv: Sequence[str], telemetry: Telemetry) -> int:
    """Run one subcommand; see `atotelemetry.command.telemetry_command`."""
    try:
        args = _parser(telemetry.app).parse_args(list(argv))
    except SystemExit as leaving:  # argparse: 0 after --help, 2 after an error
        return leaving.code if isinstance(leaving.code, int) else 1
    try:
        return _run(args, telemetry)
    except OSError as error:  # a full disk, or a reader that went away
        if not is_broken_pipe(error):
            say(f"telemetry: {error.strerror or error}", sys.stderr)
        return 1


def _parser(app: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{app} telemetry", description=f"See and choose what {app} reports.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    status = commands.add_parser("status", help="say whether runs are measured, and why")
    status.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    commands.add_parser("enable", help="let runs be measured")
    commands.add_parser("disable", help="let no run be measured any more")
    add_options(commands.add_parser("show", help="print the requests of a run in this directory; sends nothing"))
    return parser


def _run(args: argparse.Namespace, telemetry: Telemetry) -> int:
    if args.command == "enable":
        return answer(telemetry.enable())
    if args.command == "disable":
        return answer(telemetry.disable())
    if args.command == "show":
        return show(telemetry, args)
    if args.json:
        say(json.dumps(telemetry.known(), indent=2))
        return 0
    return answer(telemetry.status())
