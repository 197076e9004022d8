"""The certificate that clients see where they connect by TLS."""

import ssl
from dataclasses import dataclass
from pathlib import Path


def in_words(error: ssl.SSLError) -> str:
    """Say what is wrong with a file that OpenSSL does not take."""
    return (error.reason or str(error)).lower().replace("_", " ")


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate, with those of its issuers behind it, and of its key, in PEM."""

    chain: Path
    key: Path

    def load(self, context: ssl.SSLContext | None = None) -> None:
        """Have new connections get it, where there is a context; a mistake changes nothing.

        Raises:
            ValueError: the files cannot be read, or do not belong together.
        """
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        if context is not None:
            self._load(context)

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self.chain, self.key, password=lambda: "")  # asks nobody
        except ssl.SSLError as error:
            raise ValueError(
                f"{self.chain} and {self.key} are no certificate: {in_words(error)}"
            ) from None
        except OSError as error:
            raise ValueError(
                f"{self.chain} or {self.key} cannot be read: {error.strerror}"
            ) from None
