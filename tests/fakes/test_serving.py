from typing import Any

import httpx
import pytest

from tests.fakes.serving import serving


async def endless(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first", "more_body": True})
    while (await receive())["type"] != "nothing":
        pass


async def broken(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no settings"})


def test_a_request_that_does_not_end_is_cut_when_the_block_is_left() -> None:
    stopped = []
    with httpx.Client() as client:
        with (
            serving(endless, stopping=lambda: stopped.append(True)) as place,
            client.stream("GET", place.url) as answer,
        ):
            pieces = answer.iter_bytes()
            assert next(pieces) == b"first"
            place.stop()
            with pytest.raises(httpx.RemoteProtocolError):
                next(pieces)

    assert stopped == [True]


def test_an_app_that_does_not_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="did not start"), serving(broken):
        pass
