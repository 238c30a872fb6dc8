"""The `atotelemetry` command: see, choose and try a CLI's telemetry.

Runs in its own process, for a person or a script; no measured program loads it. This module finds the subcommand and
imports only that, so `status` in a script is quick. For `--help` the table below is enough. Ctrl-C and a reader that
went away end every command quietly. An output that cannot be written ends it with a reason. The exit code is 0 (done),
1 (failed) or 2 (called wrongly).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, a shell's word for a command that Ctrl-C ended
_PROBLEM, _CALLED_WRONGLY = 1, 2


# Of each subcommand: its module, its words for the help, and examples.
_COMMANDS = {
    "status": (
        "consent",
        "say whether runs are measured, and why",
        """\
  atotelemetry status
  atotelemetry status --json | python -m json.tool""",
    ),
    "enable": (
        "consent",
        "let runs be measured",
        """\
  atotelemetry enable
  atotelemetry enable --app my-cli""",
    ),
    "disable": (
        "consent",
        "let no run be measured any more",
        """\
  atotelemetry disable
  DO_NOT_TRACK=1 ato build        # the same for one run, and for every other tool that asks""",
    ),
    "show": (
        "show",
        "print the requests of a run in this directory; sends nothing",
        """\
  atotelemetry show
  atotelemetry show --exception --crash
  atotelemetry show --app mytool.main:telemetry
  atotelemetry show --json | python -m json.tool""",
    ),
    "test": (
        "test_event",
        "send one test event and print the server's answer",
        """\
  atotelemetry test --api-key KEY
  atotelemetry test --api-key any --host http://127.0.0.1:8000      # to `atotelemetry serve`""",
    ),
    "serve": (
        "serve",
        "be a local server that prints every event as it arrives",
        """\
  atotelemetry serve
  atotelemetry serve --port 9000 --delay 0.1 --record events.jsonl
  atotelemetry serve --status 503        # how does my program take it?""",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's arguments); return the exit code, never raise it."""
    _open_closed_streams()
    try:
        try:
            return _run(sys.argv[1:] if argv is None else list(argv))
        finally:
            # Here rather than at interpreter exit, where a reader that went away could not be told quietly.
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:  # for instance a full disk behind the output
        _let_go_of_stdout()
        from atotelemetry.command.consent import is_broken_pipe

        if not is_broken_pipe(error):
            try:
                sys.stderr.write(f"atotelemetry: {error.strerror or error}\n")
            except OSError:
                pass  # nobody is left to be told
        return _PROBLEM
    except SystemExit as leaving:  # argparse: 0 after --help, 2 after an error
        return leaving.code if isinstance(leaving.code, int) else _PROBLEM


def _run(arguments: list[str]) -> int:
    # No option before the subcommand takes a value, so the first word is its name.
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    parser, chosen_parser = _parsers(name)
    if chosen_parser is None:
        parser.parse_args(arguments)  # ends the process unless there was nothing but, say, "--"
        parser.print_help(sys.stderr)
        return _CALLED_WRONGLY
    from importlib import import_module

    module = import_module(f"atotelemetry.command.{_COMMANDS[name][0]}")
    getattr(module, f"add_{name}_arguments")(chosen_parser)
    code: int = getattr(module, f"run_{name}")(parser.parse_args(arguments))
    return code


def _parsers(chosen: str) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None]:
    """Return the whole parser, and that of the subcommand named `chosen`, which still lacks its arguments."""
    import argparse

    from atotelemetry.version import __version__

    parser = argparse.ArgumentParser(
        prog="atotelemetry",
        description="See, choose and try the telemetry of a command-line program.",
        epilog="`atotelemetry COMMAND --help` says more, with examples.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"atotelemetry {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    found = None
    for name, (_, words, examples) in _COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=words,
            description=f"{words[0].upper()}{words[1:]}.",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == chosen:
            found = subparser
    return parser, found


def _open_closed_streams() -> None:
    """Send writes to a closed output (`>&-`) nowhere, as with `>/dev/null`: closing it asks for that."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Left open to the end, as the interpreter's own are.
            nowhere = open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, nowhere)


def _let_go_of_stdout() -> None:
    """Send the rest of the buffer nowhere, or the interpreter would complain about it as it exits."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # no such stream: nothing to complain about


if __name__ == "__main__":
    sys.exit(main())
