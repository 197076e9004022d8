"""The ways in which TCP may cut a request into packets."""

from typing import get_args

import pytest

from tests.fakes import stack
from tests.fakes.sockets import Cut


@pytest.fixture(params=get_args(Cut))
def every_cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with requests that are cut in each way."""
    monkeypatch.setattr(stack, "cut", request.param)
