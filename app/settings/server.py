"""One server, as it is written in the settings."""

import re
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.routing.fleet import Server
from app.settings.mistakes import mistake
from app.settings.values import Port, from_json, lower
from app.settings.variables import plain


def _address(text: str) -> str:
    """Check a server's address; what comes out has no trailing slash."""
    if "://" not in text:
        raise mistake("must begin with http:// or https://", f"http://{text}")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise mistake(f"is no address: {error}") from None
    if url.scheme not in ("http", "https"):
        raise mistake("must begin with http:// or https://", f"http://{url.netloc}")
    if port == 0:
        raise mistake("has a port that is none", f"{url.scheme}://{_bracketed(host or '')}:8081")
    if not host or re.search(r"[\s\\]", host):
        raise mistake("names no host")
    bare = f"{url.scheme}://{_bracketed(host)}{f':{port}' if port else ''}"
    if url.path not in ("", "/") or url.query or url.fragment or "@" in url.netloc:
        raise mistake("must be scheme and host alone: no path, query or credentials", bare)
    return bare


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


Address = Annotated[str, AfterValidator(_address)]


known_kinds: ContextVar[Collection[str]] = ContextVar("known_kinds", default=())
"""What `health` may say while settings are validated; anything where that is empty.

Who asks servers about themselves knows the kinds, and stands above the settings.
"""


def _kind(name: str) -> str:
    known = known_kinds.get()
    if known and name not in known:
        *others, last = (f"'{kind}'" for kind in known)
        raise mistake(f"must be {', '.join(others)} or {last}")
    return name


class ServerSettings(BaseModel):
    """One server. A port in `addr` is the model port, unless `model_port` says another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    addr: Address = Field(
        description="Scheme and host, and perhaps the model port.", examples=["http://192.168.1.20"]
    )
    health_port: Port | None = Field(
        default=None, description="Port of the agent that reports the GPU load.", examples=[18000]
    )
    model_port: Port | None = Field(
        default=None,
        description="Port of the model API; that of `addr` if not set.",
        examples=[8081],
    )
    request_max: int | None = Field(
        default=None,
        ge=1,
        description="Most requests at once; a llama.cpp server's slots, or any number, if not set.",
        examples=[1],
    )
    health: Annotated[str, BeforeValidator(lower), AfterValidator(_kind)] = Field(
        default="auto",
        description="Kind of model server: `llamacpp`, `llama-swap`, `lmstudio`, `ollama`, "
        "`vllm` or `openai`; `auto`: the balancer finds out; `llmhealth`: the "
        "balancer asks only the agent.",
        examples=["llamacpp"],
    )
    tier: int = Field(
        default=1,
        ge=1,
        description="Servers of a higher tier get new conversations only while those of lower "
        "tiers are full.",
        examples=[2],
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Capacity compared with other servers: a server with 2 gets twice as much "
        "as one with 1.",
        examples=[0.5],
    )

    forward_credentials: bool | None = Field(
        default=None,
        description="Whether the server gets its clients' `Authorization`, `X-Api-Key` and "
        "`Cookie`; only where there are no API keys, if not set.",
        examples=[True],
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_keys(cls, data: Any) -> Any:
        data = from_json(data)
        if not isinstance(data, Mapping):
            return data
        found: dict[str, Any] = {}
        for key, value in data.items():
            if (name := plain(str(key))) in found:
                raise mistake(f'has the key "{name}" twice', {"addr": "http://192.168.1.20"})
            found[name] = value
        return found

    def server(self, name: str) -> Server:
        """Write the same in routing's words."""
        url = urlsplit(self.addr)
        host = f"{url.scheme}://{_bracketed(url.hostname or '')}"
        model_port = self.model_port or url.port
        return Server(
            name,
            model_base=f"{host}:{model_port}" if model_port else host,
            health_base=f"{host}:{self.health_port}" if self.health_port else None,
            request_max=self.request_max,
            kind=self.health,
            tier=self.tier,
            weight=self.weight,
        )
