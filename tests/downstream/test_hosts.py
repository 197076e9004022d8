"""By which names clients may call the balancer."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.downstream.hosts import MOST_KNOWN, Hosts


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (b"", True),
        (b"127.0.0.1", True),
        (b"192.168.1.5:18000", True),
        (b"[fd00::1]:18000", True),
        (b"[fe80::1%25eth0]", True),
        (b"localhost:18000", True),
        (b"LocalHost", True),
        (b"balancer:18000", True),
        (b"gpu.local", True),
        (b"gpu.lan:18000", True),
        (b"host.docker.internal", True),
        (b"balancer.ai.svc.cluster.local:18000", True),
        (b"evil.example", False),
        (b"evil.example.:80", False),
        (b"127.0.0.1.evil.example", False),
        (b"localhost.evil.example", False),
        (b"llm.example.com", False),
    ],
)
def test_addresses_and_names_that_no_site_can_have_may_be_called(
    host: bytes, allowed: bool
) -> None:
    assert Hosts().allow(host) is allowed


def test_this_machine_may_be_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Tower.example.net")

    assert Hosts().allow(b"tower.example.net:18000")


def test_names_may_be_added() -> None:
    hosts = Hosts(["llm.example.com", "*.team.example"])

    allowed = [b"LLM.example.com", b"a.team.example:443", b"a.b.team.example"]
    closed = [b"example.com", b"team.example", b"xteam.example"]
    assert [hosts.allow(host) for host in allowed + closed] == [True] * 3 + [False] * 3
    assert Hosts(["*"]).allow(b"evil.example")


@given(st.binary())
def test_no_host_breaks_anything(host: bytes) -> None:
    assert Hosts().allow(host) in (True, False)


def test_so_many_hosts_are_remembered_and_no_more() -> None:
    hosts = Hosts()
    for number in range(MOST_KNOWN + 100):
        assert hosts.allow(b"name-%d" % number)

    assert len(hosts._known) == MOST_KNOWN
