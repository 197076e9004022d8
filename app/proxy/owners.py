"""Which server made a response, a file or a batch, that clients ask for by its id."""

import re
from collections import OrderedDict
from typing import Final

from app.apis.paths import cleaned

MOST_IDS: Final = 20_000
"""The ids that were used last are remembered."""

BEGINNING: Final = 4096
"""How much of a response is searched for its id, in bytes."""

MAKERS: Final = frozenset({"/v1/responses", "/v1/files", "/v1/batches"})
"""POSTs to these make something that has an id.

https://platform.openai.com/docs/api-reference/responses
"""

_OF_PATH: Final = re.compile(r"/v1/(?:responses|files|batches)/([A-Za-z0-9_-]{1,128})(?:/.*)?")
_ID: Final = re.compile(rb'"id"\s*:\s*"((?:resp|file|batch)[A-Za-z0-9_-]{1,123})"')


class Owners:
    """Remembers servers by the ids that they have given."""

    def __init__(self) -> None:
        self._servers: OrderedDict[str, str] = OrderedDict()

    def learn(self, beginning: bytes, server: str) -> bool:
        """Read the id in the beginning of a response; return whether there is one."""
        match = _ID.search(beginning)
        if match is None:
            return False
        self._servers[match[1].decode()] = server
        if len(self._servers) > MOST_IDS:
            self._servers.popitem(last=False)
        return True

    def of(self, name: object) -> str | None:
        """Return the server that gave an id; None where that is not known."""
        if not isinstance(name, str):
            return None
        server = self._servers.get(name)
        if server is not None:
            self._servers.move_to_end(name)
        return server

    def of_path(self, path: str) -> str | None:
        """Return the server that gave the id which a path names."""
        match = _OF_PATH.fullmatch(cleaned(path))
        return None if match is None else self.of(match[1])
