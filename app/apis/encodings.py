"""Bodies that clients have compressed (RFC 9110 section 8.4)."""

import sys
import zlib
from typing import Any, Final

from app.apis.json_body import BadRequest
from app.apis.structure import pause

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KNOWN: Final = b"gzip, deflate, zstd"
"""What is understood, as `Accept-Encoding` writes it."""

PIECE: Final = 1024 * 1024
"""How many bytes are made of a body at once."""


class UnknownEncoding(ValueError):
    """A body is encoded in a way that is not understood."""


class DecodedTooLong(ValueError):
    """A body is longer than it may be, once it is decoded."""


def decoded(raw: bytes, encoding: bytes, limit: int) -> bytes:
    """Decode a body, of which no more than so many bytes may come.

    Raises:
        UnknownEncoding: it is another encoding than `KNOWN` ones, or several.
        DecodedTooLong: more bytes come.
        BadRequest: it is not encoded as it says, or not whole.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return raw
    try:
        if name in (b"gzip", b"x-gzip", b"deflate"):
            return _inflated(raw, _window(name, raw), limit)
        if name == b"zstd":
            return _decompressed(raw, limit)
    except (zlib.error, zstd.ZstdError) as error:
        raise BadRequest(f"the body is not {name.decode()} as it says: {error}") from None
    raise UnknownEncoding(name.decode("latin-1")[:64])


def _window(name: bytes, raw: bytes) -> int:
    """Tell zlib what to expect; some mean by deflate the format without a head."""
    if name != b"deflate":
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if raw[:1] == b"\x78" else -zlib.MAX_WBITS


def _inflated(raw: bytes, window: int, limit: int) -> bytes:
    inflate = zlib.decompressobj(window)
    pieces: list[bytes] = []
    size = 0
    rest = raw
    while rest and not inflate.eof:
        piece = inflate.decompress(rest, PIECE)
        rest = inflate.unconsumed_tail
        size = _counted(pieces, piece, size, limit)
    if not inflate.eof or inflate.unused_data:
        raise BadRequest("the body is compressed, and not whole")
    return b"".join(pieces)


def _decompressed(raw: bytes, limit: int) -> bytes:
    decompress: Any = zstd.ZstdDecompressor()
    pieces: list[bytes] = []
    size = 0
    rest = raw
    while not decompress.eof:
        piece = decompress.decompress(rest, max_length=PIECE)
        rest = b""
        size = _counted(pieces, piece, size, limit)
        if decompress.needs_input and not piece:
            break
    if not decompress.eof or decompress.unused_data:
        raise BadRequest("the body is compressed, and not whole")
    return b"".join(pieces)


def _counted(pieces: list[bytes], piece: bytes, size: int, limit: int) -> int:
    """Add a piece, and let others have their turn."""
    size += len(piece)
    if size > limit:
        raise DecodedTooLong
    pieces.append(piece)
    if len(piece) == PIECE:
        pause()
    return size
