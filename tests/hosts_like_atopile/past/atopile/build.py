"""`ato build` and `ato install`."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from atopile.telemetry import capture, capture_event

logger = logging.getLogger(__name__)


class PickError(Exception):
    """There is no such part."""


def build(
    entry: Annotated[str | None, typer.Argument(help="Path to the project or address of a build target")] = None,
    selected_builds: Annotated[list[str] | None, typer.Option("--build", "-b", envvar="ATO_BUILD")] = None,
    *,
    frozen: Annotated[bool, typer.Option(help="The layout must not change.")] = False,
) -> None:
    """Build the targets."""
    with capture("cli:build_start", "cli:build_end", {"frozen": frozen}):
        for target in selected_builds or ["default"]:
            _build_target(entry or "main.ato", target)


def _build_target(entry: str, target: str) -> None:
    logger.info("building %s", target)
    if target == "broken":
        raise PickError(f"no part for R1 in {entry}")
    if target == "gives-up":
        raise typer.Exit(3)
    print(f"built {target} of {entry}")


@capture("cli:install_start", "cli:install_end")
def install(package: str) -> None:
    """Install a package."""
    capture_event("cli:package", {"package": package})
    print(f"installed {package}")
