"""A project's no: `[tool.<app>] telemetry = false` in pyproject.toml, `telemetry: false` in atopile's ato.yaml.

Runs in the host, loaded only for a project file that mentions telemetry. Only its no counts: a team can say no for
everybody who works there, and nobody can say yes for others.
"""

from __future__ import annotations

from atotelemetry.host.choice import MAX_FILE_BYTES, said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["reason_in"]


def reason_in(path: str, raw: bytes, app: str) -> str:
    """Return the words by which the project file `path`, beginning with `raw`, says no to `app`, or "".

    An unclear choice counts as no, and so does an unreadable file that mentions telemetry.
    """
    return _in_yaml(path, raw) if path.endswith(".yaml") else _in_toml(path, raw, app)


def _in_toml(path: str, raw: bytes, app: str) -> str:
    import tomllib  # see the caller

    if len(raw) > MAX_FILE_BYTES:
        # Whole sections only: the rest is not read.
        raw = raw[: raw.rfind(b"\n[") + 1]
    try:
        found: Any = tomllib.loads(raw.decode()).get("tool", {}).get(app, {})
    except (ValueError, RecursionError, AttributeError):
        return f"damaged: {path} mentions telemetry of {app}"
    if not isinstance(found, dict) or "telemetry" not in found or said(found["telemetry"]) is True:
        return ""
    return f"telemetry in [tool.{app}] of {path}"


def _in_yaml(path: str, raw: bytes) -> str:
    # Only a line that begins with the word is worth a parser: an ato.yaml may name files such as `telemetry.ato`.
    if not any(line.lstrip(b" \t\"'{?").lower().startswith(b"telemetry") for line in raw.splitlines()):
        return ""
    from atotelemetry.host.choice_yaml import DamagedError, compose, decode, meaning, own_pairs

    try:
        mapping = compose(decode(raw[:MAX_FILE_BYTES])[2])
    except DamagedError:
        return f"damaged: {path} mentions telemetry"
    no = next((key for key, value in own_pairs(mapping, "telemetry") if meaning(value) is not True), None)
    return "" if no is None else f"telemetry in {path}, line {no.start_mark.line + 1}"
