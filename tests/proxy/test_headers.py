import pytest

from app.proxy.headers import nominated, request_head, response_headers, route_headers

BASE = b"http://10.0.0.5:8081"


def head(headers: list[tuple[bytes, bytes]], **options: object) -> list[bytes]:
    settings: dict[str, object] = {
        "authority": b"pc1:8081",
        "forwarded": b"x-forwarded-for: 10.0.0.1\r\n",
        "length": None,
        **options,
    }
    written = request_head("POST", b"/v1/x?y=1", headers, **settings)  # type: ignore[arg-type]
    assert written.endswith(b"\r\n\r\n")
    return written[:-4].split(b"\r\n")


def test_a_request_goes_out_with_its_own_target_and_the_servers_name() -> None:
    lines = head([(b"host", b"balancer"), (b"accept", b"*/*")])

    assert lines[:2] == [b"POST /v1/x?y=1 HTTP/1.1", b"host: pc1:8081"]
    assert lines.count(b"accept: */*") == 1
    assert b"host: balancer" not in lines


def test_hop_by_hop_headers_stay_on_their_hop() -> None:
    lines = head(
        [
            (b"connection", b"keep-alive, X-Secret"),
            (b"keep-alive", b"timeout=5"),
            (b"x-secret", b"1"),
            (b"te", b"trailers"),
            (b"proxy-authorization", b"Basic x"),
            (b"upgrade", b"h2c"),
            (b"transfer-encoding", b"chunked"),
            (b"authorization", b"Bearer k"),
            (b"cookie", b"a=b"),
        ]
    )

    assert lines[2:] == [b"authorization: Bearer k", b"cookie: a=b", b"x-forwarded-for: 10.0.0.1"]


def test_what_a_client_says_about_its_own_origin_is_replaced() -> None:
    lines = head([(b"x-forwarded-for", b"6.6.6.6"), (b"forwarded", b"for=6.6.6.6")])

    assert lines[2:] == [b"x-forwarded-for: 10.0.0.1"]


@pytest.mark.parametrize(
    ("length", "line"),
    [(b"12", b"content-length: 12"), (b"chunked", b"transfer-encoding: chunked")],
)
def test_the_bodys_length_is_told_once_and_by_us(length: bytes, line: bytes) -> None:
    lines = head([(b"content-length", b"99"), (b"transfer-encoding", b"gzip")], length=length)

    assert lines[2:] == [b"x-forwarded-for: 10.0.0.1", line]


def test_repeated_headers_are_kept_in_their_order() -> None:
    came = [(b"set-cookie", b"a=1"), (b"x-a", b"1"), (b"set-cookie", b"b=2")]

    assert response_headers(200, came, base=BASE) == came


def test_an_answers_hop_by_hop_headers_stay_on_their_hop() -> None:
    came = [
        (b"x-inner", b"1"),
        (b"connection", b"X-Inner, close"),
        (b"transfer-encoding", b"chunked"),
        (b"content-type", b"text/plain"),
    ]

    assert response_headers(200, came, base=BASE) == [(b"content-type", b"text/plain")]


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (b"http://10.0.0.5:8081/ui/", b"/ui/"),
        (b"/ui/", b"/ui/"),
        (b"https://example.org/", b"https://example.org/"),
        (b"http://10.0.0.5:80810/", b"http://10.0.0.5:80810/"),
    ],
)
def test_a_redirect_to_the_server_itself_becomes_one_to_us(location: bytes, told: bytes) -> None:
    assert response_headers(302, [(b"location", location)], base=BASE) == [(b"location", told)]


def test_an_answer_without_a_body_tells_no_length() -> None:
    assert response_headers(304, [(b"content-length", b"5"), (b"etag", b"x")], base=BASE) == [
        (b"etag", b"x")
    ]
    assert response_headers(200, [(b"content-length", b"5")], base=BASE) == [
        (b"content-length", b"5")
    ]


def test_the_servers_request_id_gives_way_to_ours() -> None:
    assert response_headers(200, [(b"x-request-id", b"theirs")], base=BASE) == []


def test_names_that_connection_nominates_are_found_whatever_their_case() -> None:
    assert nominated([(b"connection", b"A, b"), (b"connection", b"C")]) == {b"a", b"b", b"c"}


def test_an_answer_tells_where_it_came_from_whatever_the_server_is_called() -> None:
    assert route_headers("PC 1 太郎\r\n", "m", "idle") == (
        (b"x-balancer-server", b"PC 1 %E5%A4%AA%E9%83%8E%0D%0A"),
        (b"x-balancer-instance", b"m"),
        (b"x-balancer-reason", b"idle"),
    )
