"""Certificates to try things with."""

import ssl
import subprocess
from pathlib import Path


class Authority:
    """Files of a certificate for `localhost` that vouches for itself."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.issued: list[bytes] = []
        self.renew()

    def renew(self) -> None:
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost -days 2"
        subprocess.run(
            [*command.split(), "-keyout", str(self.key), "-out", str(self.cert)],
            check=True,
            capture_output=True,
        )
        self.issued.append(ssl.PEM_cert_to_DER_cert(self.cert.read_text()))

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.cert))
