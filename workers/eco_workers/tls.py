"""Certificates of servers: which authority is trusted, and how strictly a server is looked at.

Authorities are given as PEM text, of one or more certificates; without any the machine's own store is trusted.
"""

import base64
import re
import ssl
from typing import Final, Literal

from yarl import URL

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
DatabaseTls = ssl.SSLContext | Literal["prefer", False]
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def check_authority(pem: str) -> str:
    """The text as it is, when it holds certificates that can be read; raises ValueError."""
    found = _CERTIFICATE.findall(pem)
    if not found:
        raise ValueError("want certificates in PEM, each with its BEGIN CERTIFICATE and END CERTIFICATE")
    try:
        ssl.create_default_context(cadata="\n".join(found))
    except ssl.SSLError as error:
        raise ValueError(f"holds no readable certificate: {error}") from None
    return pem


def broker_url(url: str, authority: str) -> str:
    """The URL with the authority in it, in the form that the client reads; `amqps` is verified with or without one."""
    if not authority:
        return url
    certificates = b"".join(ssl.PEM_cert_to_DER_cert(each) for each in _CERTIFICATE.findall(authority))
    return str(URL(url).update_query(cadata=base64.b64encode(certificates).decode()))


def for_database(mode: SslMode, authority: str) -> DatabaseTls:
    """What the client of PostgreSQL is given, with the meaning that the modes have for every PostgreSQL client."""
    if mode == "disable":
        return False
    if mode == "prefer":
        return "prefer"
    context = ssl.create_default_context(cadata=authority or None)
    if mode != "verify-full":
        context.check_hostname = False
    if mode == "require":
        # Encrypted, and whoever answers is believed: what `require` means everywhere.
        context.verify_mode = ssl.CERT_NONE
    return context
