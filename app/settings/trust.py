"""Whom we believe, and as whom we come, where a server is reached by TLS."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from app.settings.certificate import in_words


@dataclass(frozen=True)
class Trust:
    """How a server's certificate is checked, and the one of our own that it gets.

    Without a `ca_file` the system's store decides, or `SSL_CERT_FILE`. All files are PEM.
    """

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    """The certificate's key, where it does not stand in the same file."""
    verify: bool = True
    """Whether the server's certificate is checked at all."""

    def context(self) -> ssl.SSLContext:
        """Build what connections are made with.

        Raises:
            ValueError: a file cannot be read, or holds something else.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.client_cert is not None:
                context.load_cert_chain(self.client_cert, self.client_key, password=lambda: "")
        except ssl.SSLError as error:
            raise ValueError(f"{self._files} hold no certificates: {in_words(error)}") from None
        except OSError as error:
            raise ValueError(f"{self._files} cannot be read: {error.strerror}") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @property
    def _files(self) -> str:
        files = (self.ca_file, self.client_cert, self.client_key)
        return ", ".join(str(file) for file in files if file is not None)
