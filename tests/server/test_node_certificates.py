"""A node and the certificate of its control process."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.errors import CertificateNotTrusted, ControlUnreachable
from server.nodes.link import Link
from server.settings import Settings


class Answer(BaseHTTPRequestHandler):
    """Nothing has changed."""

    def do_GET(self) -> None:
        """Say so."""
        self.send_response(304)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Of a node whose control process's certificate is for an address and holds for some days."""
    address, days = request.param
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "control")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(2)).not_valid_after(now + timedelta(days))
    made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    (tmp_path / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    given = {
        "state_dir": tmp_path,
        "node_key": "k",
        "control_url": f"https://127.0.0.1:{server.server_port}",
        "control_ca_file": tmp_path / "ca.pem",
    }
    yield Settings.model_validate(given)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("settings", [("127.0.0.1", 1)], indirect=True)
def test_one_that_holds_is_trusted(settings: Settings) -> None:
    """The control process is heard."""
    link = Link(settings, "n")

    assert link.orders("", 0) is None
    link.close()


@pytest.mark.parametrize(
    ("settings", "why"),
    [(("127.0.0.1", -1), "has expired"), (("127.0.0.2", 1), "mismatch")],
    indirect=["settings"],
)
def test_a_certificate_that_does_not_hold_is_told(settings: Settings, why: str) -> None:
    """The control process counts as not reached, and the reason is what TLS says."""
    link = Link(settings, "n")
    with pytest.raises(CertificateNotTrusted, match=why) as fault:
        link.orders("", 0)

    assert isinstance(fault.value, ControlUnreachable)
    link.close()
