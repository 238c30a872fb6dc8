"""The reasons for lost events: short, stable texts that the host counts by.

A leaf. They are for `stats.lost_by_reason`, so they must be few. The sender's journal tells the details. Two more
reasons hold an HTTP status (`of_status`), and protocol v1 has the server's own words (`of_details`).
"""

from __future__ import annotations

OVER_QUOTA = "over quota"  # the project's billing limit (protocol v1, which tells)
TOO_BIG = "event too big"  # for the server (v1)
NOT_STORED = "not stored"  # the server asked for it again until the last retry (v1)
NO_VERDICT = "no verdict"  # the server's answer of success cannot be read (v1)
NETWORK_CONNECT = "network: connect failed"  # no connection: refused, unreachable, unknown name, proxy gone
NETWORK_TIMEOUT = "network: timeout"  # no answer in time
NETWORK_BROKEN = "network: broken"  # the connection was lost, or the answer is no HTTP
NETWORK_TRUST = "network: not trusted"  # the server's certificate
NOT_SENDABLE = "not sendable"  # the HTTP library refuses the request or cannot be loaded
NOT_ENCODABLE = "not encodable"  # a value that JSON cannot hold
UNREADABLE = "unreadable line"  # damaged on its way through the pipe
DEADLINE = "deadline"  # the sender's time was over
BUFFER_FULL = "buffer full"  # the oldest, in an outage that outlasts the buffer (`patient`)
DISABLED = "disabled"  # the person said no before it was posted
SENDER_FAILED = "sender failed"  # a bug of ours
OTHER = "other"  # more kinds than we count


def of_status(status: int) -> str:
    """Return the reason by an HTTP status: "refused (401)", or, after the last retry, "server error (503)"."""
    return f"server error ({status})" if status >= 500 else f"refused ({status})"  # RFC 9110, 15.6


def of_details(details: str) -> str:
    """Return the reason for an event that the server dropped with these details (protocol v1)."""
    known = {"billing_limit_exceeded": OVER_QUOTA, "event_too_big": TOO_BIG, "ai_event_too_big": TOO_BIG}
    words = details.replace("_", " ")
    return known.get(details) or (words if words and words.isprintable() else "dropped by the server")


def is_an_answer(reason: str) -> bool:
    """Whether the server answered, though with a status of failure."""
    return reason.startswith(("refused (", "server error ("))


def is_of_the_network(reason: str) -> bool:
    """Whether no HTTP answer came back."""
    return reason.startswith("network: ")
