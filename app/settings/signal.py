"""How a machine is told to wake or to sleep: by a command, or at an address."""

import re
import shlex
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from app.settings.mistakes import mistake


def _words(value: object) -> object:
    """Read a command as a shell would split it, where it is one text."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise mistake(f"is no command: {error}") from None


def _web_address(text: str) -> str:
    try:
        url = urlsplit(text)
        known = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        known = False
    if not known or not text.isascii() or re.search(r"[\s\\]", text) or "@" in url.netloc:
        raise mistake("is no address of http or https", "http://192.168.1.9/api/webhook/wake")
    return text


def _mac(text: str) -> str:
    digits = re.sub(r"[:.-]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{12}", digits):
        raise mistake("is no address of a network card", "52:54:00:12:34:56")
    return ":".join(re.findall("..", digits))


Mac = Annotated[str, BeforeValidator(str), AfterValidator(_mac)]


class Signal(BaseModel):
    """A command that is run on the balancer's machine, or an address that gets a `POST`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Annotated[tuple[str, ...], BeforeValidator(_words), Field(min_length=1)] | None = None
    url: Annotated[str, AfterValidator(_web_address)] | None = None

    @model_validator(mode="after")
    def _check_one(self) -> "Signal":
        if (self.command is None) == (self.url is None):
            raise mistake("must have either a `command` or a `url`")
        return self
