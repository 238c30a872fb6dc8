"""For tests of programs that capture: their events in a list, or a local PostHog to receive them.

In the test's own process, without a server:

    from atotelemetry.testing import captured

    def test_build(…):
        with captured(telemetry) as events:
            build()
        assert [event["event"] for event in events] == ["build_start", "build_end"]

With real processes and a real sender:

    from atotelemetry.testing import Answer, CaptureServer

    with CaptureServer() as server:
        subprocess.run(["my-cli", "build"], env=os.environ | server.environment("my-cli"))
        (event,) = server.wait_for_events(1)
        assert event["event"] == "build finished"

        server.script(Answer(status=503), Answer(reset=True))  # the answers to the next two requests

The server judges requests as PostHog's capture endpoint does, and refuses the same ones. It listens on loopback only.
`plugin.py` is for pytest. The host and the sender never import this package.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from atotelemetry.testing.events import captured
    from atotelemetry.testing.http import Answer, AnswerSource, RecordedRequest
    from atotelemetry.testing.server import CaptureServer

__all__ = ["Answer", "AnswerSource", "CaptureServer", "RecordedRequest", "captured"]

# Loaded when used: every pytest run of a user loads the plugin below this package.
_HOMES = {
    "Answer": "atotelemetry.testing.http",
    "AnswerSource": "atotelemetry.testing.http",
    "CaptureServer": "atotelemetry.testing.server",
    "RecordedRequest": "atotelemetry.testing.http",
    "captured": "atotelemetry.testing.events",
}


def __getattr__(name: str) -> object:
    """Load a public name at its first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    __import__(home)
    value = getattr(sys.modules[home], name)
    globals()[name] = value
    return value
