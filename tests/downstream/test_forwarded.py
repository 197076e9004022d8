from ipaddress import ip_network

import pytest

from app.downstream.forwarded import Origin


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("9.9.9.9", b"1.2.3.4", "9.9.9.9"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", b"1.2.3.4", "1.2.3.4"),
        ("127.0.0.1", b"6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("127.0.0.1", b"1.2.3.4, 10.0.0.9, 127.0.0.1", "1.2.3.4"),
        ("127.0.0.1", b"10.0.0.7", "10.0.0.7"),
        ("127.0.0.1", b"1.2.3.4, <script>", "127.0.0.1"),
        ("127.0.0.1", b"", "127.0.0.1"),
        ("127.0.0.1", b"\xff\xfe, 2001:db8::1", "2001:db8::1"),
        ("not an address", b"1.2.3.4", "not an address"),
    ],
)
def test_only_what_trusted_proxies_say_about_the_origin_is_believed(
    peer: str, forwarded: bytes | None, client: str
) -> None:
    origin = Origin([ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8")])

    assert origin.client(peer, forwarded) == client


@pytest.mark.parametrize(
    ("told", "address"),
    [
        (b"9.9.9.9:1234", "9.9.9.9"),
        (b"[2001:db8::1]:1234", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"_hidden", "10.0.0.9"),
    ],
)
def test_a_proxy_may_tell_a_port_with_the_clients_address(told: bytes, address: str) -> None:
    origin = Origin([ip_network("10.0.0.0/8")])

    assert origin.client("10.0.0.9", told) == address
