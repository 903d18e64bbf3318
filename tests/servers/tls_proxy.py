"""TLS for engines under test that have none: a certificate that nobody vouches for, and a proxy that ends TLS before them."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engines import missing

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""What libpq asks before it speaks TLS; the answer is one letter."""


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that has signed itself, and its key."""
    if shutil.which("openssl") is None:
        missing("no openssl to make a certificate with")
    key, made = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True)
    return made, key


@contextmanager
def tls_before(port: int, certificate: Path, key: Path, *, asked_first: bool = False) -> Iterator[int]:
    """The port of a proxy that takes TLS and hands it on to `port` in the clear. `asked_first`: as Postgres does it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(plain: socket.socket) -> None:
        with plain, suppress(OSError):
            if asked_first:
                if plain.recv(8, socket.MSG_WAITALL) != _SSL_REQUEST:
                    return
                plain.sendall(b"S")
            with (
                context.wrap_socket(plain, server_side=True) as outer,
                socket.create_connection(("127.0.0.1", port)) as inner,
            ):
                back = threading.Thread(target=_pass_on, args=(inner, outer), daemon=True)
                back.start()
                _pass_on(outer, inner)
                back.join(10)

    def accept() -> None:
        with suppress(OSError):  # closed
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
