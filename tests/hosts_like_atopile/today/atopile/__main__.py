"""The entry point of `ato`."""

from __future__ import annotations

import sys

import typer

from atopile import build as builds
from atopile import server
from atopile.telemetry import telemetry

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def build(targets: list[str]) -> None:
    """Build the targets."""
    builds.start_forkserver()
    with builds.capture_build_invocation():
        builds.submit(targets)
    print(f"built {' '.join(targets)}")


@app.command()
@telemetry.capture("cli:create_project_start", "cli:create_project_end")
def create(name: str) -> None:
    """Create a project."""
    if name == "taken":
        raise FileExistsError(name)
    telemetry.capture_auth_event("user_1", "dev@acme.example")
    print(f"created {name}")


@app.command()
def serve(*, crash: bool = False) -> None:
    """Serve until SIGTERM."""
    server.main(crash=crash)


def main() -> None:
    """Run the command line."""
    try:
        app(standalone_mode=False)
    except Exception as error:
        print(f"error: {error}", file=sys.stderr)
        telemetry.capture_exception(error)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
