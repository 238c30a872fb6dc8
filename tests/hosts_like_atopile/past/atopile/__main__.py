"""The entry point of `ato`."""

from __future__ import annotations

import sys

import typer

from atopile import telemetry
from atopile.build import build, install

app = typer.Typer(no_args_is_help=True, add_completion=False)
app.command()(build)
app.command()(install)


def main() -> int:
    """Run the command line; return the exit code."""
    try:
        return app(standalone_mode=False) or 0
    except Exception as error:
        telemetry.capture_exception(error)
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
