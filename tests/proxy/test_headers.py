import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.key_ring import CREDENTIALS
from app.proxy.headers import (
    HOP_BY_HOP,
    OURS,
    nominated,
    request_head,
    response_headers,
    route_headers,
    without_cookie,
)

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


FIELD_NAMES = st.one_of(
    st.sampled_from(sorted(OURS | CREDENTIALS | {b"accept", b"x-1", b"connection"})),
    st.from_regex(rb"[a-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True),
)
FIELD_VALUES = st.one_of(
    st.from_regex(rb"[!-~\x80-\xff][ -~\t\x80-\xff]{0,20}", fullmatch=True),
    st.lists(FIELD_NAMES, max_size=3).map(b", ".join),
)
FIELDS = st.lists(st.tuples(FIELD_NAMES, FIELD_VALUES), max_size=8)


@given(FIELDS)
def test_a_server_gets_what_is_the_clients_to_say_and_nothing_else(
    headers: list[tuple[bytes, bytes]],
) -> None:
    dropped = OURS | nominated(headers)
    passed = [b"%b: %b" % pair for pair in headers if pair[0] not in dropped]

    assert head(headers)[2:] == [*passed, b"x-forwarded-for: 10.0.0.1"]


@given(FIELDS, st.sampled_from([200, 204, 304, 500]), st.booleans())
def test_a_client_gets_nothing_that_is_for_us_alone(
    headers: list[tuple[bytes, bytes]], status: int, whole: bool
) -> None:
    kept = response_headers(status, headers, base=BASE, whole=whole)

    names = {name for name, _ in kept}
    assert names.isdisjoint(HOP_BY_HOP | nominated(headers) | {b"x-request-id"})
    others = [pair for pair in kept if pair[0] != b"location"]
    assert others == [pair for pair in headers if pair in others]


@given(st.lists(st.sampled_from([b"a=1", b"s=2", b"s=", b"xs=3", b"s", b"", b"b= s=4"])))
def test_one_cookie_is_taken_out_and_every_other_stays(cookies: list[bytes]) -> None:
    [*left] = without_cookie([(b"cookie", b"; ".join(cookies))], b"s")

    stays = [cookie for cookie in cookies if cookie.partition(b"=")[0] != b"s"]
    told = b"; ".join(value for _, value in left)
    assert [part for part in told.split(b"; ") if part] == [part for part in stays if part]
