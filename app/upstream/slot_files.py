"""Saving what a slot of llama.cpp's server holds into a file, and restoring it."""

import json
import time
from typing import Final

from app.upstream.errors import UpstreamError
from app.upstream.fetch import fetch
from app.upstream.introspection.pages import is_number, members
from app.upstream.pool import Pool

LIMIT: Final = 64 * 1024
"""Longest response that is read, in bytes."""

CONNECT_SECONDS: Final = 5.0

LONGEST: Final = 30.0
"""Seconds that it may take."""


COUNTS: Final = {"save": "n_saved", "restore": "n_restored"}
"""What tells how many tokens were."""


async def act(pool: Pool, slot: int, action: str, file: str) -> float | None:
    """Have a server `save` a slot or `restore` it; return how many seconds it took.

    None where it did not. It needs `--slot-save-path`
    (https://github.com/ggml-org/llama.cpp/tree/master/tools/server#post-slotsid_slotactionsave-save-the-prompt-cache-of-the-specified-slot-to-a-file).
    """
    body = json.dumps({"filename": file}).encode()
    request = b"".join(
        [
            b"POST %b/slots/%d?action=%b HTTP/1.1\r\n" % (pool.prefix, slot, action.encode()),
            b"host: %b\r\ncontent-type: application/json\r\n" % pool.authority,
            b"content-length: %d\r\n%b\r\n%b" % (len(body), pool.lines, body),
        ]
    )
    begun = time.monotonic()
    try:
        response = await fetch(
            pool, request, limit=LIMIT, connect_timeout=CONNECT_SECONDS, silence=LONGEST
        )
    except UpstreamError:
        return None
    count = members((response.status, response.body)).get(COUNTS[action])
    return time.monotonic() - begun if is_number(count) and count else None
