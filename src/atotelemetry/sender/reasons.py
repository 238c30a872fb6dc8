"""The reasons for lost events: short, stable texts that the host counts by.

A leaf. The sender's journal tells the details. These texts are for `stats.lost_by_reason`, so they must be few.

    refused (401)             the server's final answer; also 408 and 429 after the last retry
    server error (503)        the last of the answers from 500 on
    over quota                the project's billing limit (protocol v1, which tells)
    event too big             for the server (v1)
    not stored                the server asked for it again until the last retry (v1)
    no verdict                the server's answer of success cannot be read (v1)
    network: connect failed   no connection: refused, unreachable, unknown name, proxy gone
    network: timeout          no answer in time
    network: broken           the connection was lost, or the answer is no HTTP
    network: not trusted      the server's certificate
    not sendable              the HTTP library refuses the request or cannot be loaded
    not encodable             a value that JSON cannot hold
    unreadable line           damaged on its way through the pipe
    deadline                  the sender's time was over
    buffer full               the oldest, in an outage that outlasts the buffer (`patient`)
    disabled                  the person said no before it was posted
    sender failed             a bug of ours
    other                     more kinds than we count
"""

from __future__ import annotations

__all__ = [
    "BUFFER_FULL",
    "DEADLINE",
    "DISABLED",
    "NETWORK_BROKEN",
    "NETWORK_CONNECT",
    "NETWORK_TIMEOUT",
    "NETWORK_TRUST",
    "NOT_ENCODABLE",
    "NOT_SENDABLE",
    "NOT_STORED",
    "NO_VERDICT",
    "OTHER",
    "OVER_QUOTA",
    "SENDER_FAILED",
    "TOO_BIG",
    "UNREADABLE",
    "is_an_answer",
    "is_of_the_network",
    "of_details",
    "of_status",
]

OVER_QUOTA = "over quota"
TOO_BIG = "event too big"
NOT_STORED = "not stored"
NO_VERDICT = "no verdict"
NETWORK_CONNECT = "network: connect failed"
NETWORK_TIMEOUT = "network: timeout"
NETWORK_BROKEN = "network: broken"
NETWORK_TRUST = "network: not trusted"
NOT_SENDABLE = "not sendable"
NOT_ENCODABLE = "not encodable"
UNREADABLE = "unreadable line"
DEADLINE = "deadline"
BUFFER_FULL = "buffer full"
DISABLED = "disabled"
SENDER_FAILED = "sender failed"
OTHER = "other"


def of_status(status: int) -> str:
    """Return the reason for events that the server answered with an HTTP status of failure."""
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
