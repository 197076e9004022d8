"""The control endpoints bear whatever their own schema allows, and what it does not."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case

from app.main import create_app
from app.settings import Settings
from tests.fakes.balancer import Running, balancer
from tests.fakes.ports import free_port

ADMIN = "admin-0123456789"
with warnings.catch_warnings():  # GET and HEAD of a path have one name
    warnings.simplefilter("ignore")
    schema = schemathesis.openapi.from_dict(create_app(Settings()).reloader.control.openapi())


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    server = {"addr": "http://127.0.0.1", "model_port": free_port()}
    with balancer({"A": server}, {".*": ["A"]}, ready=False, admin_key=ADMIN) as found:
        yield found


@schema.exclude(path_regex="events$").parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_makes_a_control_endpoint_fail(running: Running, case: Case[Any]) -> None:
    response = case.call(base_url=running.url, headers={"authorization": f"Bearer {ADMIN}"})

    # What is no request of ours goes to the model servers, of which there are none: 502, 503.
    assert response.status_code not in (500, 501, 504), response.text
