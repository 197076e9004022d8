from typing import get_args

import pytest

from tests.fakes import stack
from tests.fakes.loops import anyio_backend
from tests.fakes.sockets import Cut

__all__ = ["anyio_backend"]


@pytest.fixture(params=get_args(Cut))
def every_cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with requests that are cut into packets in each way."""
    monkeypatch.setattr(stack, "cut", request.param)
