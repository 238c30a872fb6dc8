"""Events to PostHog, and who is signed in. The rest is atotelemetry's."""

from __future__ import annotations

import atotelemetry
from atopile.auth import signed_in
from atopile.telemetry.properties import ThinProperties

PH_PROJECT_KEY = "phc_like_atopile"


def _logged_in_identity():
    return signed_in()


# --- README's adoption begins here
_telemetry = atotelemetry.Telemetry(
    app="atopile",
    api_key=PH_PROJECT_KEY,
    identity=_logged_in_identity,
    run_properties=(*atotelemetry.RUN_PROPERTIES, "project"),
)
capture = _telemetry.capture
capture_exception = _telemetry.capture_exception


class Telemetry:
    @staticmethod
    def get() -> Telemetry:
        return Telemetry()

    def capture(self, event: str, thin: ThinProperties) -> None:
        _telemetry.capture_event(event, thin.dump())

    def flush(self) -> None:
        _telemetry.client.flush()


# --- and ends here


def capture_auth_event(subject, email):
    """As the extension for VS Code reports a person who signed in."""
    thin = ThinProperties(extra={"clerk_email": email, "clerk_user_id": subject})
    Telemetry.get().capture("cli:authenticated", thin)
