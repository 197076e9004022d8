"""One server, as it is written in the settings."""

import re
from base64 import b64encode
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from app.routing.fleet import Server
from app.settings.listening import bracketed
from app.settings.mistakes import mistake
from app.settings.signal import Mac, Signal
from app.settings.trust import Trust
from app.settings.values import Port, Seconds, from_json, from_secret_json, from_servers_json, lower
from app.settings.variables import plain


def _address(text: str) -> str:
    """Check a server's address; what comes out has no trailing slash."""
    if "://" not in text:
        raise mistake("must begin with http:// or https://", f"http://{text}")
    if text.startswith(DNS):
        return _dns_name(text)
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise mistake(f"is no address: {error}") from None
    if url.scheme not in ("http", "https"):
        raise mistake("must begin with http:// or https://", f"http://{url.netloc}")
    if port == 0:
        raise mistake("has a port that is none", f"{url.scheme}://{bracketed(host or '')}:8081")
    if not host or re.search(r"[\s\\]", host) or not _has_labels(host):
        raise mistake("names no host")
    bare = f"{url.scheme}://{bracketed(host)}{f':{port}' if port else ''}"
    path = url.path.rstrip("/")
    if url.query or url.fragment or "@" in url.netloc:
        raise mistake("must be scheme, host and perhaps a path: no query or credentials", bare)
    if path.endswith("/v1"):
        raise mistake("must not end with /v1: each request brings it along", bare + path[:-3])
    if not re.fullmatch(r"[A-Za-z0-9/._~!$&'()*+,;=:@%-]*", path):
        raise mistake("has a path that is none (RFC 3986 section 3.3)", f"{bare}/llama")
    return bare + path


def _has_labels(host: str) -> bool:
    """Whether the parts of a name are as long as they may be (RFC 1035 section 2.3.4)."""
    return ":" in host or all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))


def _dns_name(text: str) -> str:
    """Check the address of all servers that a name leads to."""
    scheme = text.removeprefix(DNS).partition("://")[0]
    if scheme == "srv":
        if not re.fullmatch(r"dns\+srv://[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", text):
            example = "dns+srv://_llama._tcp.example.internal"
            raise mistake("must be the name of SRV records alone, without port or path", example)
        return text
    plain_address = _address(text.removeprefix(DNS))
    host = urlsplit(plain_address).hostname or ""
    if ":" in host or re.fullmatch(r"[0-9.]+", host):
        raise mistake("must hold a name, which DNS knows addresses of", "dns+http://llama:8081")
    return DNS + plain_address


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, secret in headers.items():
        value = secret.get_secret_value()
        if not re.fullmatch(r"[!#$%&'*+.^_`|~A-Za-z0-9-]+", name) or name.lower() in FRAMING:
            raise mistake(f'"{name}" is no header that can be set', {"x-tenant": "a"})
        if not re.fullmatch(r"[ -~\xa0-\xff]*", value):
            raise mistake(f'"{name}" has a value that no header can have', {name: "a"})
    return headers


def _token(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[ -~]+", secret.get_secret_value()):
        raise mistake("must be printable ASCII")
    return secret


DNS = "dns+"
"""How addresses begin that stand for as many servers as DNS knows under a name."""

FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that tell where a message ends, and to whom it goes: they are ours."""

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
    """One server; an address alone stands for one with nothing else set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    addr: Address = Field(
        description="Scheme and host, and perhaps the model port and a path. "
        "`dns+http://llama:8081`: each address of the name is a server; `dns+srv://NAME`: each "
        "of its SRV records.",
        examples=["http://192.168.1.20"],
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
        "tiers are full; with `BALANCER_TIER_WAIT` any request only after such a wait.",
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

    api_key: Annotated[SecretStr, AfterValidator(_token)] | None = Field(
        default=None,
        description="Key that the server wants from the balancer; with it the server does not get "
        "its clients' credentials, unless `forward_credentials` is set.",
        examples=["sk-…"],
    )
    api_key_file: Path | None = Field(
        default=None,
        description="A file that holds the key; it is read again when it changes.",
        examples=["/run/secrets/pc1"],
    )
    auth: Annotated[Literal["bearer", "x-api-key", "basic"], BeforeValidator(lower)] = Field(
        default="bearer",
        description="How the server wants its key: as a `bearer` token, in `x-api-key`, or as "
        "`basic`, with the key being `user:password`.",
        examples=["x-api-key"],
    )
    headers: Annotated[
        dict[str, SecretStr], BeforeValidator(from_secret_json), AfterValidator(_headers)
    ] = Field(
        default={},
        description="More headers for each request to it, in place of those of the client.",
        examples=[{"x-tenant": "a"}],
    )
    ca_file: Path | None = Field(
        default=None,
        description="Certificates in PEM that vouch for the server's, in place of the system's.",
        examples=["/etc/llama-balancer/ca.pem"],
    )
    client_cert: Path | None = Field(
        default=None,
        description="A certificate in PEM by which the server knows the balancer.",
        examples=["/etc/llama-balancer/client.pem"],
    )
    client_key: Path | None = Field(
        default=None,
        description="The certificate's key, if it does not stand in the same file.",
        examples=["/etc/llama-balancer/client.key"],
    )
    verify: bool = Field(
        default=True,
        description="Whether the server's certificate is checked. If not, whoever is between can "
        "read and change everything.",
        examples=[False],
    )
    requests_per_hour: int | None = Field(
        default=None,
        ge=1,
        description="Most requests within an hour; more wait, or go elsewhere.",
        examples=[100],
    )
    context: int | None = Field(
        default=None,
        ge=1,
        description="How many tokens a prompt may have there; what the server tells, if not set.",
        examples=[32768],
    )
    models: Annotated[dict[str, str], BeforeValidator(from_json)] = Field(
        default={},
        description="What models are called there, by the names that they have here.",
        examples=[{"qwen3:8b": "Qwen/Qwen3-8B"}],
    )

    mac: Mac | None = Field(
        default=None,
        description="Address of the machine's network card: it is woken by a magic packet.",
        examples=["52:54:00:12:34:56"],
    )
    wake: Signal | None = Field(
        default=None,
        description="What wakes the machine, beside the packet: a `command` of the balancer's "
        "machine, or a `url` that gets a `POST`.",
        examples=[{"command": "ipmitool -H 192.168.1.9 power on"}],
    )
    sleep: Signal | None = Field(
        default=None,
        description="What puts the machine to sleep: a `command`, or a `url` that gets a `POST`.",
        examples=[{"command": "ssh tower systemctl suspend"}],
    )
    sleep_after: Seconds | None = Field(
        default=None,
        description="Seconds without any request, or other load of its GPUs, after which it is "
        "put to sleep.",
        examples=[1800],
    )

    _address: str | None = PrivateAttr(default=None)
    _listed_only: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _plain_keys(cls, data: Any) -> Any:
        if isinstance(data, str) and re.match(r"[a-z+]+://", data):
            return {"addr": data}  # all that most servers need
        data = from_servers_json(data)
        if not isinstance(data, Mapping):
            return data
        found: dict[str, Any] = {}
        for key, value in data.items():
            if (name := plain(str(key))) in found:
                raise mistake(f'has the key "{name}" twice', {"addr": "http://192.168.1.20"})
            found[name] = value
        return found

    @model_validator(mode="after")
    def _check_files(self) -> "ServerSettings":
        if self.api_key_file is not None:
            if self.api_key is not None:
                raise mistake("has both an `api_key` and an `api_key_file`")
            try:
                text = self.api_key_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise mistake(f"`api_key_file` cannot be read: {error}") from None
            object.__setattr__(self, "api_key", _token(SecretStr(text)))
        self._check_port()
        self._check_sleep()
        if self.trust != Trust():
            try:
                self.trust.context()
            except ValueError as error:
                raise mistake(str(error)) from None
        return self

    def _check_port(self) -> None:
        port = None if self.by_dns else urlsplit(self.addr).port
        if port is not None and self.model_port not in (None, port):
            raise mistake(f"has two ports, {port} in `addr` and {self.model_port} in `model_port`")

    def _check_sleep(self) -> None:
        if (self.sleep is None) != (self.sleep_after is None):
            raise mistake("must have both `sleep` and `sleep_after`, or none of them")
        if self.sleep is not None and not self.wakes:
            raise mistake("would not wake again: set `mac` or `wake`, too")
        if self.by_dns and self.wakes:
            raise mistake("cannot be woken: its address may stand for several servers")

    @property
    def wakes(self) -> bool:
        """Whether it can be woken."""
        return self.mac is not None or self.wake is not None

    @property
    def by_dns(self) -> bool:
        """Whether the address stands for all servers that DNS knows."""
        return self.addr.startswith(DNS)

    def at(self, address: str) -> "ServerSettings":
        """Return the same for one IP address of the name, which itself goes into `Host`."""
        one = self.model_copy(update={"addr": self.addr.removeprefix(DNS)})
        one._address = address
        return one

    def at_target(self, host: str, port: int, *, tier: int, weight: float) -> "ServerSettings":
        """Return the same for the target of an SRV record."""
        there = {"addr": f"http://{host}:{port}", "model_port": None}
        return self.model_copy(update={**there, "tier": tier, "weight": weight})

    def listed_only(self) -> "ServerSettings":
        """Return the same for a server that gets no requests but for models that it lists."""
        one = self.model_copy()
        one._listed_only = True
        return one

    def gets_credentials(self, *, by_default: bool) -> bool:
        """Whether the server gets its clients' credentials."""
        if self.forward_credentials is None:
            return by_default and self.api_key is None
        return self.forward_credentials

    @property
    def files(self) -> list[Path]:
        """The files that were read for it."""
        files = (self.api_key_file, self.ca_file, self.client_cert, self.client_key)
        return [file for file in files if file is not None]

    @property
    def trust(self) -> Trust:
        """What is for TLS."""
        return Trust(self.ca_file, self.client_cert, self.client_key, self.verify)

    @property
    def own_headers(self) -> dict[str, str]:
        """The headers that each request to it gets."""
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        if self.api_key is not None:
            key = self.api_key.get_secret_value()
            match self.auth:
                case "bearer":
                    headers["authorization"] = f"Bearer {key}"
                case "basic":
                    headers["authorization"] = f"Basic {b64encode(key.encode()).decode()}"
                case "x-api-key":
                    headers["x-api-key"] = key
        return headers

    def server(self, name: str) -> Server:
        """Write the same in routing's words."""
        url = urlsplit(self.addr.removeprefix(DNS).replace("srv://", "http://"))
        host = f"{url.scheme}://{bracketed(url.hostname or '')}"
        model_port = self.model_port or url.port
        return Server(
            name,
            model_base=(f"{host}:{model_port}" if model_port else host) + url.path,
            health_base=f"{host}:{self.health_port}" if self.health_port else None,
            request_max=self.request_max,
            kind=self.health,
            tier=self.tier,
            weight=self.weight,
            models=self.models,
            context=self.context,
            requests_per_hour=self.requests_per_hour,
            address=self._address,
            listed_only=self._listed_only,
            wakes=self.wakes,
        )
