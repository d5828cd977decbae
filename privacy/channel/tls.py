"""The caller's end of a mutual TLS 1.3 connection."""

from __future__ import annotations

import ssl
from pathlib import Path

from cloister.privacy.errors import ChannelError


def client_context(authority: Path, certificate: Path, key: Path, password: str = "") -> ssl.SSLContext:
    """TLS settings of a caller that shows a certificate and trusts one authority only.

    Args:
        authority: certificate of the authority that vouches for the other end, PEM.
        certificate: the caller's own certificate, PEM.
        key: the key of that certificate, PEM.
        password: of the key, if it is under one.

    Raises:
        ChannelError: ``certificate_invalid``, a file is missing or is not what it should be.

    Formal guarantees:
        A connection under these settings is of TLS 1.3, to a server whose certificate the authority
        signed for the host name that was called. The system's own authorities are not trusted.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key, password)  # without one, OpenSSL would ask at the terminal
    except OSError as error:  # ssl.SSLError is one
        raise ChannelError(
            "certificate_invalid", f"{certificate}, its key or {authority} cannot be used: {error}."
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
