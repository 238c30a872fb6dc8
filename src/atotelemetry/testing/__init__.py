"""A local PostHog-compatible endpoint, for this project's tests and for its users' tests.

    from atotelemetry.testing import Answer, CaptureServer

    with CaptureServer() as server:
        subprocess.run(["my-cli", "build"], env={**os.environ, "MY_TELEMETRY_URL": server.url})
        (event,) = server.wait_for_events(1)
        assert event["event"] == "build finished"

        server.script(Answer(status=503), Answer(reset=True))  # what the next two requests get

It judges requests as PostHog's capture endpoint does: what PostHog would refuse is refused here too. It listens on
loopback only. The host and the sender never import it.
"""

from atotelemetry.testing.http import Answer, AnswerSource, RecordedRequest
from atotelemetry.testing.server import CaptureServer

__all__ = ["Answer", "AnswerSource", "CaptureServer", "RecordedRequest"]
