"""The certificate authorities that a sender trusts, and a remedy when the server's is missing.

Runs in the sender, on a connection's thread. The operating system's store counts (truststore), or the files named in a
variable. A container often has neither. There certifi's list counts, which httpx brings.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

__all__ = ["trusted", "why_not_trusted"]

# The first family with a variable set counts: OpenSSL's, then requests', then curl's.
_VARIABLES = (("SSL_CERT_FILE", "SSL_CERT_DIR"), ("REQUESTS_CA_BUNDLE",), ("CURL_CA_BUNDLE",))

# The remedy for an error in a certificate, by OpenSSL's number (x509_vfy.h) and by Windows' (winerror.h, CERT_E_…).
_ADVICE = {
    9: "set this machine's clock",  # not yet valid
    10: "renew the server's certificate, or set this machine's clock",  # expired
    62: "use the name that the certificate is for",  # another host
    64: "use the name that the certificate is for",  # another IP address
    0x800B0101: "renew the server's certificate, or set this machine's clock",
    0x800B010F: "use the name that the certificate is for",
}
_USUAL_ADVICE = "set SSL_CERT_FILE to a file with its authority's certificate"


def trusted(directory: str | None, log: Callable[[str], object]) -> ssl.SSLContext:
    """Return TLS settings that trust the named files, else the operating system's store, else certifi's list.

    Relative paths in variables start at `directory`. `log` gets a line for each unusable path.
    """
    import ssl

    import truststore

    named = _named(os.environ, directory or "")
    native = sys.platform in ("win32", "darwin")
    context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if native:
        # Their stores are not OpenSSL's: they count beside the named files.
        _load(context, named, log)
        return context
    if named:
        # Made by hand: truststore asks OpenSSL, which sees relative paths from our own directory.
        by_hand = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if _load(by_hand, named, log):
            _load_defaults(by_hand, {variable for variable, _ in named})
            return by_hand
    if named or _is_empty(context):
        import certifi

        context.load_verify_locations(cafile=certifi.where())
        log(f"{named[0][0] if named else 'the system'} has no certificates: trusting those of certifi")
    return context


def why_not_trusted(error: BaseException) -> str:
    """Return the fault of the server's certificate and its remedy; an empty string for other errors."""
    import ssl

    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return ""
        if isinstance(cause, ssl.SSLCertVerificationError):
            fault = f"TLS: the server's certificate is not trusted: {cause.verify_message or cause}"
            return f"{fault}: {_ADVICE.get(cause.verify_code, _USUAL_ADVICE)}"
        cause = cause.__cause__ or cause.__context__
    return ""


def _named(environ: Mapping[str, str], directory: str) -> list[tuple[str, str]]:
    """Return the files and directories that a person named, each with its variable."""
    for family in _VARIABLES:
        named = []
        for variable in family:
            value = environ.get(variable, "")
            paths = value.split(os.pathsep) if variable == "SSL_CERT_DIR" else [value]
            named += [(variable, os.path.join(directory, path)) for path in paths if path]
        if named:
            return named
    return []


def _load(context: ssl.SSLContext, named: list[tuple[str, str]], log: Callable[[str], object]) -> bool:
    """Trust the certificates in these files and directories; return whether there were any."""
    loaded = False
    for variable, path in named:
        try:
            if not os.path.isdir(path):
                context.load_verify_locations(cafile=path)
            elif _holds_certificates(path):
                context.load_verify_locations(capath=path)
            else:
                log(f"{variable}: {path} holds no certificates that OpenSSL finds (see openssl-rehash)")
                continue
            loaded = True
        except (OSError, ValueError) as error:  # an error of OpenSSL is an OSError
            log(f"{variable}: {path} cannot be used: {error}")
    return loaded


def _load_defaults(context: ssl.SSLContext, variables: set[str]) -> None:
    """Trust OpenSSL's own file beside a named directory, and its directory beside a named file.

    That is how OpenSSL itself reads its two variables (SSL_CTX_load_verify_locations(3)).
    """
    import ssl

    own = ssl.get_default_verify_paths()
    if variables == {"SSL_CERT_FILE"} and os.path.isdir(own.openssl_capath):
        context.load_verify_locations(capath=own.openssl_capath)
    if variables == {"SSL_CERT_DIR"} and os.path.isfile(own.openssl_cafile):
        context.load_verify_locations(cafile=own.openssl_cafile)


def _is_empty(context: ssl.SSLContext) -> bool:
    """Whether the operating system has no certificates where OpenSSL or truststore look for them."""
    import ssl

    paths = ssl.get_default_verify_paths()
    if paths.cafile and os.path.getsize(paths.cafile):
        return False
    if paths.capath and _holds_certificates(paths.capath):
        return False
    # Until it is used, truststore does not look. It knows more places, and this makes it look in them.
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
    found: ssl.SSLContext | None = getattr(context, "_ctx", None)  # its own `cert_store_stats` is not implemented
    return found is not None and not found.cert_store_stats()["x509_ca"]


def _holds_certificates(directory: str) -> bool:
    """Whether OpenSSL finds certificates in a directory: it looks for names like `5ed36f99.0`."""
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    return any(name[8:9] == "." and name[9:].isdigit() for name in names)
