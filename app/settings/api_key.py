"""One API key, as it is written in the settings."""

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
)

from app.keys.allowance import Allowance
from app.keys.key_ring import HASH, Key, hash_of
from app.keys.priority import Priority
from app.settings.mistakes import mistake
from app.settings.values import ModelPattern, listed
from app.settings.variables import read_json

SHORTEST = 16
"""Characters of a key that nobody guesses; `llama-balancer key new` makes longer ones."""


def _key(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if text.startswith(HASH):
        if not re.fullmatch(r"[0-9a-f]{64}", text[len(HASH) :]):
            raise mistake(f"must be {HASH} and 64 hexadecimal digits, as `key new` prints them")
    elif not re.fullmatch(r"[!-~]+", text):
        raise mistake("must be of letters, digits and punctuation of ASCII, without spaces")
    elif len(text) < SHORTEST:
        raise mistake(f"must have {SHORTEST} characters at least; `key new` makes one")
    return secret


def written_briefly(value: object) -> object:
    """Read a key alone where it has nothing but its text."""
    if isinstance(value, str) and value.startswith("{"):
        value = read_json(value, secret=True)
    return {"key": value} if isinstance(value, str | SecretStr) else value


class ApiKeySettings(BaseModel):
    """One key: what a client shows, and what it may use with it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    key: Annotated[SecretStr, AfterValidator(_key)] = Field(
        description="The key, or its hash as `llama-balancer key new` prints it.",
        examples=["sha256:…"],
    )
    models: Annotated[tuple[ModelPattern, ...], BeforeValidator(listed)] = Field(
        default=(),
        description="Regular expressions for the whole names of the models that it may use; "
        "all, if not set.",
        examples=[["qwen3.*"]],
    )

    request_max: int | None = Field(
        default=None,
        ge=1,
        description="Most requests at once; any number, if not set.",
        examples=[4],
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Most requests in any 60 seconds; any number, if not set.",
        examples=[60],
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Most tokens in any 60 seconds, read and generated; any number, if not set.",
        examples=[100_000],
    )
    priority: Priority = Field(
        default="normal",
        description="Who goes first where requests wait: `interactive`, then `normal`, then "
        "`batch`. A request may lower its own by the header `x-balancer-priority`.",
    )
    hints: bool = Field(
        default=False,
        description="Whether its requests may choose among servers by the headers "
        "`x-balancer-prefer` and `x-balancer-avoid`.",
    )
    expires: AwareDatetime | None = Field(
        default=None,
        description="When it opens nothing any more, with that time's zone; never, if not set.",
        examples=["2027-01-31T00:00:00Z"],
    )

    def named(self, name: str) -> tuple[str, Key]:
        """Write the same as a key ring takes it: the hash, and what it allows."""
        patterns = [re.compile(pattern) for pattern in self.models]
        return hash_of(self.key.get_secret_value()), Key(
            name,
            patterns,
            allowance=Allowance(self.request_max, self.requests_per_minute, self.tokens_per_minute),
            priority=self.priority,
            hints=self.hints,
            expires=None if self.expires is None else self.expires.timestamp(),
        )


ApiKey = Annotated[ApiKeySettings, BeforeValidator(written_briefly)]


def unlike(keys: dict[str, Any]) -> dict[str, Any]:
    """Check that no two names have the same key: nobody could tell who asks."""
    seen: dict[str, str] = {}
    for name, settings in keys.items():
        text = hash_of(settings.key.get_secret_value())
        if text in seen:
            raise mistake(f'has the same key for "{seen[text]}" and "{name}"')
        seen[text] = name
    return keys
