"""TLS handshakes in memory."""

import ssl
from pathlib import Path


def shake_hands(ca: Path, server: Path, name: str, client: Path | None = None) -> None:
    """Between a client that asks for a name, with or without a certificate of its own, and a server.

    Keys lie beside certificates. Raises ssl.SSLError where one of them refuses the other.
    """
    client_context = ssl.create_default_context(cafile=ca)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    server_context.load_cert_chain(server, server.with_suffix(".key"))
    if client is not None:
        client_context.load_cert_chain(client, client.with_suffix(".key"))
        server_context.verify_mode = ssl.CERT_REQUIRED
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client_context.wrap_bio(to_client, to_server, server_hostname=name),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    unfinished = [*sides]
    while unfinished:
        for side in list(unfinished):
            try:
                side.do_handshake()
                unfinished.remove(side)
            except ssl.SSLWantReadError:
                continue
