"""What a single value may be: a port, a list of names, a pattern that is safe to match."""

import re
from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from app.settings.mistakes import mistake
from app.settings.redos.pattern import weakness
from app.settings.variables import read_json

USERNAME_PATTERN = (
    r"(?:(?:(?:ユーザー?|利用者)(?:名|の(?:お?名前|氏名))|(?:私|わたし|僕|俺)の名前)\s?(?:は|[::=])"
    r"|(?:ユーザー?|利用者)\s?[::=]"
    r"|\b(?i:user(?:[\x27’]?s)?[ _-]?name|my name)(?:\**[::=]| is\b)"
    r"|\b(?i:user)\**[::=](?=\s?[「『“\"\x27‘]))"
    r"[\s*]{0,4}[「『“\"\x27‘]?"
    r"((?<=「)[^「」\n]{1,64}(?=」)|(?<=『)[^『』\n]{1,64}(?=』)|(?<=“)[^“”\n]{1,64}(?=”)"
    r"|(?<=\")[^\"\n]{1,64}(?=\")|(?<=[\x27‘])[^\n]{1,64}?(?=[\x27’](?!\w))"
    r"|(?<=は)\w{1,32}?(?=です|さん|様)"
    r"|(?<=[\s*::=])\w[\w.@+-]{0,63}?(?=です|さん|様|\.?(?![\w.@+-]))(?: [A-Z][\w-]{0,31}){0,3})"
)
"""What people write about themselves: ユーザー名は「太郎」です, The user's name is "Alice".

Names stand in quotes, or are one word, or several that begin with a capital.
"""


def from_json(value: object) -> object:
    """Read JSON where text came."""
    return read_json(value) if isinstance(value, str) else value


def from_secret_json(value: object) -> object:
    """Read JSON where text came whose parts may stand in no message."""
    return read_json(value, secret=True) if isinstance(value, str) else value


def from_servers_json(value: object) -> object:
    """Read JSON where text came, which may hold a server's key."""
    may_be_secret = isinstance(value, str) and ("key" in value or "headers" in value)
    return from_secret_json(value) if may_be_secret else from_json(value)


def listed(value: object) -> object:
    """Read a list where text came: JSON, or parts with commas between."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return read_json(value)
    return [part.strip() for part in value.split(",")]


def lower(value: object) -> object:
    """Forgive capitals: INFO is info."""
    return value.lower() if isinstance(value, str) else value


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        pass
    try:
        example = str(ip_network(text, strict=False))
    except ValueError:
        example = "10.0.0.0/8"
    raise mistake(f'"{text}" is no address and no network', [example])


def _compiled(pattern: str, *, search: bool = False) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        # Many write what a shell would understand: *llama* is .*llama.* here.
        meant = pattern.replace("*", ".*")
        example = meant if pattern.startswith("*") and _compiles(meant) else None
        raise mistake(f"is no regular expression: {error}", example) from None
    if reason := weakness(pattern, search=search):
        raise mistake(reason)
    return compiled


def _compiles(pattern: str) -> bool:
    try:
        return weakness(pattern) is None
    except re.error:
        return False


def _model_pattern(pattern: str) -> str:
    return _compiled(pattern).pattern


def _username_pattern(pattern: str) -> str:
    if _compiled(pattern, search=True).groups == 0:
        raise mistake("has no group for the name", 'user is "([^"]+)"')
    return pattern


def _host_name(text: str) -> str:
    if not re.fullmatch(r"\*|(?:\*\.)?[\w-]+(?:\.[\w-]+)*\.?", text):
        raise mistake(f'"{text}" is no host\'s name', ["llm.example.com"])
    return text


def _origin(text: str) -> str:
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+", text.lower()):
        raise mistake(f'"{text}" is no origin', ["https://chat.example.com"])
    return text


Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]
ServerName = Annotated[str, Field(min_length=1)]
KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
ModelPattern = Annotated[str, AfterValidator(_model_pattern)]
Names = Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)]
Network = Annotated[str, AfterValidator(_network)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(listed)]
HostName = Annotated[str, AfterValidator(_host_name)]
Origin = Annotated[str, AfterValidator(_origin)]
UsernamePattern = Annotated[str, AfterValidator(_username_pattern)]
