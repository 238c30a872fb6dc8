"""The settings of a sender: the fields of a `hello` line, and a person's options for them.

Runs in the sender, on its main and its reader thread. Options win over the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atotelemetry.facts.address import fault_of_address
from atotelemetry.facts.text import number_between
from atotelemetry.wire import PROTOCOL_VERSION, Hello

if TYPE_CHECKING:
    import argparse

__all__ = ["fault_of", "overrides", "parse"]

_LONGEST = 1e6  # a lock can wait no longer

_EPILOG = """\
input, one JSON object per line:
  {"event": "build", "distinct_id": "me", "properties": {"ok": true}}
  What is missing (uuid, timestamp, distinct_id) is made up. A recorded stream begins with a "hello" line that says
  where it goes, and then needs no options; those that are given win. Streams may follow one another.

examples:
  echo '{"event": "hello"}' | python -m atotelemetry.sender --host http://127.0.0.1:8000 --api-key test -v
  python -m atotelemetry.sender --dry-run < recorded.jsonl

environment:
  ATO_TELEMETRY_LOG=FILE   append what -v reports to FILE; works for the senders that a program starts, too
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY   the way to the server
  SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE   whose certificates to trust

exit status: 0 everything was accepted, 1 something was not, 2 called wrongly
"""


def fault_of(settings: Hello) -> str:
    """Return why settings cannot be used, or an empty string."""
    fault = fault_of_address(settings.host)
    if fault:
        return fault
    if not settings.api_key:
        return "the api_key is empty"
    if settings.endpoint not in ("auto", "capture", "batch"):
        return f"the endpoint must be auto, capture or batch, not {settings.endpoint!r}"
    if settings.capture_protocol not in ("v0", "v1"):
        return f"the protocol must be v0 or v1, not {settings.capture_protocol!r}"
    # v1 sends it in a header.
    if settings.capture_protocol == "v1" and not (settings.api_key.isascii() and settings.api_key.isprintable()):
        return "the api_key holds a character that cannot be sent"
    if settings.max_retries < 0 or settings.request_timeout <= 0 or settings.sender_deadline <= 0:
        return "times must be positive, and max_retries not negative"
    return ""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options that a person gave; leaves the process if they cannot be used."""
    import argparse  # a sender that a host started has no options

    parser = argparse.ArgumentParser(
        prog="python -m atotelemetry.sender",
        description="Read events from standard input and deliver them to a PostHog-compatible server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    seconds: dict[str, Any] = {"type": number_between(0.001, _LONGEST), "metavar": "S"}
    add("--host", metavar="URL", help="base URL of the server, such as https://eu.i.posthog.com")
    add("--api-key", metavar="KEY", help="the project's write-only key")
    add("--app", metavar="NAME", help="the measured program, for the User-Agent (default: atopile)")
    add("--endpoint", choices=("auto", "capture", "batch"), help="auto: a lone event to /capture/, several to /batch/")
    add("--protocol", choices=("v0", "v1"), help="v1: PostHog's endpoint with a verdict on every event (default: v0)")
    add("--max-retries", type=number_between(0, 10**9, int), metavar="N", help="attempts after the first (default: 1)")
    add("--timeout", **seconds, help="seconds for each network operation (default: 5)")
    add("--deadline", **seconds, help="seconds to live on after the input has ended (default: 15)")
    add("--idle", **seconds, help="end when nothing came for S seconds (default: wait for the end)")
    add("--compression", choices=("auto", "always", "never"), help="gzip the requests (default: auto, above 1 KiB)")
    add("--dry-run", action="store_true", help="print the body of each request instead of sending it")
    add("-v", "--verbose", action="store_true", help="report each request, retry and drop, and a summary, on stderr")
    options = parser.parse_args(arguments)
    if bool(options.host) != bool(options.api_key):
        parser.error("--host and --api-key go together (a stream with a hello line needs neither)")
    if options.host:
        fault = fault_of(Hello(protocol=PROTOCOL_VERSION, api_key=options.api_key, host=options.host))
        if fault:
            parser.error(f"--host: {fault}")
    return options


# The options whose fields of a hello line have other names.
_FIELDS = {"protocol": "capture_protocol", "timeout": "request_timeout", "deadline": "sender_deadline"}


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given, as fields of a hello line."""
    given = {_FIELDS.get(name, name): value for name, value in vars(options).items() if value is not None}
    fields = {name: value for name, value in given.items() if name in Hello.__struct_fields__}
    if "compression" in fields:
        fields["compression"] = {"auto": None, "always": True, "never": False}[fields["compression"]]
    return fields
