"""Event loops that the socket tests run on: asyncio's own, and uvloop where there is one."""

from importlib.util import find_spec
from typing import Any

import pytest

LOOPS = ["asyncio", "uvloop"] if find_spec("uvloop") else ["asyncio"]


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}
