import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.apis.json_body import BadRequest
from app.apis.multipart import Form, boundary_of


def field(name: str, value: bytes) -> bytes:
    return b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (
        name.encode(),
        value,
    )


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=b", b"b"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        (b"multipart/form-data", None),
        (b"application/json", None),
        (b"", None),
    ],
)
def test_the_boundary_is_read_off_the_type(content_type: bytes, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


def test_a_form_without_its_boundary_is_refused() -> None:
    with pytest.raises(BadRequest):
        Form(b"{}", b"b")


def test_a_form_that_names_its_model_twice_is_refused() -> None:
    with pytest.raises(BadRequest):
        Form(field("model", b"one") + field("model", b"two") + b"--b--", b"b")


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda x: "\r" not in x))
def test_a_field_is_read_and_replaced(value: str) -> None:
    form = Form(field("language", b"en") + field("model", value.encode()) + b"--b--", b"b")

    assert form.get("model") == value
    assert Form(form.edited({"model": "other"}), b"b").get("model") == "other"
    assert form.get("language") == Form(form.edited({"model": "x"}), b"b").get("language") == "en"


@given(st.binary(), st.binary(min_size=1, max_size=3))
def test_any_bytes_are_a_form_or_a_bad_request(raw: bytes, boundary: bytes) -> None:
    try:
        form = Form(raw, boundary)
    except BadRequest:
        return
    assert form.edited({}) == raw


def test_a_boundary_that_no_body_can_contain_is_refused() -> None:
    with pytest.raises(BadRequest, match="not ASCII"):
        boundary_of(b"multipart/form-data; boundary*=utf-8''%E2%82%AC")


def test_what_a_form_does_not_have_is_not_set() -> None:
    raw = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'

    assert Form(raw, b"x").edited({"id_slot": 1, "model": "n"}) == raw.replace(b"\nm\r", b"\nn\r")


def test_a_field_is_known_by_its_whole_name_alone() -> None:
    parts = [
        b'Content-Disposition: form-data; name="model[]"\r\n\r\na',
        b'Content-Disposition: form-data; name="model.x"\r\n\r\nb',
        b"Content-Disposition: form-data; name=model\r\n\r\nc",
    ]
    raw = b"--x\r\n" + b"\r\n--x\r\n".join(parts) + b"\r\n--x--\r\n"
    assert Form(raw, b"x").get("model") == "c"
