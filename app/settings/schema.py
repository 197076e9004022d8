"""What there is to set."""

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.apis.endpoints import CHAT_PATH
from app.keys.key_ring import Key, KeyRing
from app.routing.fleet import Fleet
from app.settings.api_key import ApiKeySettings, unlike
from app.settings.certificate import Certificate
from app.settings.key_file import ApiKeys, read_key_file, readable
from app.settings.listening import is_own, reached_at
from app.settings.mistakes import DELIMITER, PREFIX, mistake
from app.settings.open_endpoints import BELOW, OpenEndpoint
from app.settings.paths import RoutedPaths
from app.settings.server import ServerSettings
from app.settings.values import (
    USERNAME_PATTERN,
    HostName,
    ModelPattern,
    Names,
    Networks,
    Origin,
    Percent,
    Port,
    Seconds,
    ServerName,
    UsernamePattern,
    from_json,
    from_secret_json,
    from_servers_json,
    listed,
    lower,
)

STORES: Final = ("redis", "rediss", "redis+sentinel", "unix")
"""How the addresses of stores begin that replicas may share."""
SENTINELS: Final = re.compile(
    r"redis\+sentinel://([^@/]*@)?[^/,:]+(:\d+)?(,[^/,:]+(:\d+)?)*/[^/]+(/\d+)?"
)

AUTO: Final = "auto"
"""Stands for the balancer that announces itself."""


def _has(module: str) -> bool:
    """Whether a module of an extra is installed."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is part of
        return False


def _balancer(text: str) -> str:
    """Check a balancer's address."""
    if text.lower() == AUTO:
        if not _has("zeroconf"):
            raise mistake("needs the extra `mdns`: pip install llama-balancer[mdns]")
        return AUTO
    return ServerSettings(addr=text).addr


def _traces(value: bool) -> bool:
    if value and not _has("opentelemetry.exporter.otlp.proto.http"):
        raise mistake("needs the extra `otel`: pip install llama-balancer[otel]")
    return value


def _store(url: SecretStr) -> SecretStr:
    if not _has("redis"):
        raise mistake("needs the extra `valkey`: pip install llama-balancer[valkey]")
    address = url.get_secret_value()
    scheme = urlsplit(address).scheme
    if scheme not in STORES:
        raise mistake("begins with redis://, rediss:// (TLS), redis+sentinel:// or unix://")
    if scheme == "redis+sentinel" and SENTINELS.fullmatch(address) is None:
        raise mistake("is written as redis+sentinel://:PASSWORD@HOST:26379,HOST:26379/SERVICE")
    return url


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise mistake("is no folder")
    if not os.access(path, os.W_OK | os.X_OK):
        raise mistake("is a folder that cannot be written to")
    return path


class Settings(BaseSettings):
    """All settings. The constructor takes plain values: only `load` reads the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        frozen=True,
        extra="forbid",
        validate_default=False,
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Port = Field(default=18000, description="TCP port to listen on.")

    servers: Annotated[dict[ServerName, ServerSettings], BeforeValidator(from_servers_json)] = (
        Field(
            default={},
            description="The model servers, in order of preference: each has an `addr`, and may "
            "have a `health_port`, a `model_port`, a `request_max`, a `health`, a "
            "`tier` and a `weight`.",
            examples=[{"PC1": {"addr": "http://192.168.1.20", "model_port": 8081}}],
        )
    )
    models: Annotated[dict[ModelPattern, Names], BeforeValidator(from_json)] = Field(
        default={},
        description="Regular expressions for whole model names, and the servers that may serve "
        "them; the first that matches decides. If not set, each server may serve every model.",
        examples=[{"gpt-oss:20b.*": ["PC1", "PC2"]}],
    )
    fallback_server: str | None = Field(
        default=None,
        description="The server for requests that match no pattern; the first one if not set.",
        examples=["PC1"],
    )
    aliases: Annotated[dict[ModelPattern, str], BeforeValidator(from_json)] = Field(
        default={},
        description="Other names for models, or regular expressions for whole names: a request "
        "for the first gets the second; the first that matches decides.",
        examples=[{"gpt-4o": "qwen3:8b", "claude-.*": "qwen3-coder"}],
    )
    model_fallbacks: Annotated[dict[str, Names], BeforeValidator(from_json)] = Field(
        default={},
        description="Models that respond in place of another while none of its servers is up, in "
        "order of preference; the header `x-balancer-model` names the one.",
        examples=[{"qwen3:32b": ["qwen3:8b"]}],
    )
    instances: Annotated[Literal["numbered", "off"], BeforeValidator(lower)] = Field(
        default="numbered",
        description="`numbered`: `model-2`, `model-3` and so on are instances of the `model` "
        "that the same server lists, where the numbers have no gap; `off`: each "
        "name is a model.",
    )
    routed_paths: RoutedPaths = Field(
        default=(CHAT_PATH,),
        description="Paths whose requests are routed by model; other requests that make a model"
        " work go to the fallback server. `all`: every such path.",
        examples=[[CHAT_PATH, "/v1/embeddings"]],
    )
    overflow: Annotated[Literal["queue", "first"], BeforeValidator(lower)] = Field(
        default="queue",
        description="Where a request goes while all its servers are full: into the `queue`, or "
        "to the `first` server in spite of its limit.",
    )
    tier_wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0,
        description="Seconds that a request waits for a server of a lower tier before it goes to "
        "one of a higher, such as a cloud API; at once where none of a lower tier is up.",
    )
    hold_max: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=30,
        description="Seconds for which a slot stays empty at the most for the conversation that "
        "has just left it, and a model in memory for its next request, where that saves more "
        "than it costs; 0 for never.",
    )
    pin_models: Annotated[tuple[ModelPattern, ...], BeforeValidator(listed)] = Field(
        default=(),
        description="Regular expressions for whole names of models that stay in memory where they "
        "are, while any other server can load what is asked for.",
        examples=[["qwen3-coder.*"]],
    )
    saved_prompts: int = Field(
        default=8,
        ge=0,
        le=1000,
        description="How many prompts that leave their slots each llama.cpp server with "
        "`--slot-save-path` saves in files, where that is sooner than to read them again; 0 for "
        "none.",
    )
    queue_timeout: Seconds = Field(default=30, description="Longest wait in the queue, in seconds.")
    queue_max: int = Field(
        default=100, ge=0, description="How many requests may wait in the queue."
    )
    stream_keepalive: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=15,
        description="Seconds of silence after which a client that waits for a stream gets a sign "
        "of life, in the queue and from a server; 0 for none. The first one fixes the status: "
        "it is 200, and an error after it is an event.",
    )

    affinity: Annotated[Literal["prompt", "client"], BeforeValidator(lower)] = Field(
        default="prompt",
        description="How a request finds the server that has its prompt in a cache: by the "
        "`prompt` itself, or only by its `client`.",
    )
    adopt_slots: bool = Field(
        default=True,
        description="Use the number of slots that a llama.cpp server reports as its "
        "`request_max`, where none is set.",
    )
    route_headers: bool = Field(
        default=True,
        description="Add the headers `x-balancer-server`, `-instance` and `-reason` to responses.",
    )

    sticky_ttl: Seconds = Field(
        default=180,
        description="How long a client stays with its server after its last request, in seconds.",
    )
    username_pattern: UsernamePattern = Field(
        default=USERNAME_PATTERN,
        examples=['user is "([^"]+)"'],
        description="Regular expression that finds the user's name in the system message; its "
        "first group is the name.",
    )
    trusted_proxies: Networks = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="Addresses and networks from which `X-Forwarded-For` is trusted.",
    )

    api_keys: Annotated[ApiKeys, BeforeValidator(from_secret_json)] = Field(
        default={},
        description="Keys by the names of those who have them, each the text alone or a `key` and "
        "the `models` that it may use; who shows none gets a 401. Without any, nobody needs one.",
        examples=[{"alice": {"key": "sha256:…", "models": ["qwen3.*"]}}],
    )
    api_keys_file: Annotated[Path, AfterValidator(readable)] | None = Field(
        default=None,
        description="A file of more keys, in the same form, or a folder with a file for each name; "
        "it is read again when it changes.",
        examples=["/etc/llama-balancer/keys.json"],
    )
    admin_key: SecretStr | None = Field(
        default=None,
        min_length=8,
        description="Key for the monitor page, the metrics and the like where there are API keys, "
        "and for what changes something, such as draining a server; without it none is allowed.",
        examples=["a-long-random-text"],
    )

    tls_cert: Path | None = Field(
        default=None,
        description="A certificate in PEM, with those of its issuers behind it: clients then "
        "connect by TLS. It is read again when it is renewed.",
        examples=["/etc/llama-balancer/fullchain.pem"],
    )
    tls_key: Path | None = Field(
        default=None,
        description="The certificate's key, in PEM and without a password.",
        examples=["/etc/llama-balancer/privkey.pem"],
    )
    insecure: bool = Field(
        default=False,
        description="Do not warn that others than this machine can use every model, as no keys "
        "are set.",
    )
    metrics_key: SecretStr | None = Field(
        default=None,
        min_length=8,
        description="Key for `/metrics` and `/llmhealth-targets` alone, for Prometheus; once it is "
        "set they need it, or the admin key.",
        examples=["another-long-random-text"],
    )
    open_endpoints: Annotated[dict[OpenEndpoint, Networks], BeforeValidator(from_json)] = Field(
        default={},
        description="Endpoints of the balancer's own that need no key from some networks, by the "
        "address of the connection itself, whatever a proxy says.",
        examples=[{"/metrics": ["10.0.0.0/8"]}],
    )

    join: Annotated[str, AfterValidator(_balancer)] | None = Field(
        default=None,
        description="Address of the balancer that this machine's model servers join by themselves; "
        "`auto` finds it on the local network, with the extra `mdns` on both sides.",
        examples=["http://192.168.1.10:18000"],
    )
    join_token: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="What machines show to join a balancer; both sides need it, and without it "
        "none can join.",
        examples=["a-long-random-text"],
    )
    join_servers: Annotated[
        dict[ServerName, ServerSettings], BeforeValidator(from_servers_json)
    ] = Field(
        default={},
        description="The model servers of this machine, as in `BALANCER_SERVERS`; those on "
        "the usual ports, if not set.",
        examples=[{"PC1": {"addr": "http://127.0.0.1:8081", "request_max": 2}}],
    )
    join_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="What the balancer calls this machine; its host name, if not set.",
        examples=["PC1"],
    )
    join_address: HostName | None = Field(
        default=None,
        description="Name or address at which the balancer reaches this machine; where its "
        "requests come from, if not set.",
        examples=["192.168.1.20"],
    )
    state_dir: Annotated[Path, AfterValidator(_folder)] | None = Field(
        default=None,
        description="A folder where servers are kept that were added over the admin API, and who "
        "used which model how much, for 400 days; if not set, a restart forgets both.",
        examples=["/var/lib/llama-balancer"],
    )

    allowed_hosts: Annotated[tuple[HostName, ...], BeforeValidator(listed)] = Field(
        default=(),
        description="Names by which clients may call the balancer, besides addresses, names "
        "without a dot, those of private networks such as `.local` and `.internal`, and this "
        "machine's own. `*.example.com` and `*` are possible.",
        examples=[["llm.example.com"]],
    )
    cors_origins: Annotated[tuple[Origin, ...], BeforeValidator(listed)] = Field(
        default=(),
        description="Pages of which sites may ask for models, such as `https://chat.example.com` "
        "or `https://*.example.com`; `*` for all. If not set, all where there are API keys, else "
        "those of this machine and of applications.",
        examples=[["https://chat.example.com"]],
    )

    pass_control: bool = Field(
        default=True,
        description="Pass on what changes a model server, such as `/api/delete`, `/models/unload` "
        "or `/sleep`; if not, clients get a 403. Where there are API keys, it must be set to "
        "hold for others than who has the admin key.",
    )

    probe_interval: Annotated[float, Field(ge=0.1, le=3600)] = Field(
        default=1, description="Time between two probes of a server, in seconds."
    )
    window_seconds: int = Field(
        default=5,
        ge=1,
        le=3600,
        description="How long a server counts as busy after a probe found it busy, in seconds.",
    )
    gpu_busy_percent: Percent = Field(
        default=50,
        description="GPU utilisation from which this machine counts as busy, in percent.",
    )
    probe_connect_timeout: Seconds = Field(
        default=5, description="Longest wait for a probe's connection, in seconds."
    )
    probe_read_timeout: Seconds = Field(
        default=2, description="Longest wait for a probe's response, in seconds."
    )
    probe_rise: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Number of good probes in a row after which a server that was down is up "
        "again.",
    )
    probe_fall: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Number of failed probes in a row after which a server is down; one is "
        "enough where nothing listens.",
    )
    models_interval: Seconds = Field(
        default=10,
        description="Time between two requests for a server's model list, in seconds; as long do "
        "its models stay in ours while it is down.",
    )

    connect_timeout: Seconds = Field(
        default=5, description="Longest wait for a connection to a model server, in seconds."
    )
    first_byte_timeout: Seconds = Field(
        default=300, description="Longest wait for a response to begin, in seconds."
    )
    idle_timeout: Seconds = Field(
        default=300, description="Longest pause within a request or a response, in seconds."
    )
    cancel_timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1,
        description="How long a request whose client left counts as in flight at its server, in "
        "seconds, unless the server stops before.",
    )
    max_body_bytes: int = Field(
        default=67_108_864, ge=1, description="Largest body of a model request, in bytes."
    )
    max_buffered_bytes: int = Field(
        default=536_870_912,
        ge=1,
        description="How much of model requests' bodies is held at once, in bytes, until their "
        "responses begin; a request for which there is no room gets a 503.",
    )
    max_connections: int = Field(
        default=10_000,
        ge=1,
        description="How many connections clients may have at once; for one more the longest idle "
        "is closed, and where none is idle the new one gets a 503.",
    )
    max_connections_per_client: int = Field(
        default=1000,
        ge=1,
        description="How many of them may come from one address that is no trusted proxy.",
    )
    valkey_url: Annotated[SecretStr, AfterValidator(_store)] | None = Field(
        default=None,
        description="Address of the Valkey (or Redis) in which several balancers keep each "
        "server's `request_max` together; needs the extra `valkey`.",
        examples=["redis://:password@192.168.1.10:6379/0"],
    )
    valkey_prefix: str = Field(
        default="llama-balancer",
        pattern=r"^[\w.:-]{1,64}$",
        description="How the names begin of what is kept there: the same for all that belong "
        "together.",
    )
    on_store_failure: Annotated[Literal["share", "full", "reject"], BeforeValidator(lower)] = Field(
        default="share",
        description="What a balancer goes by while Valkey is away: its share of each "
        "`request_max`, the `full` one, or none (`reject`), so that requests wait for Valkey.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="How many processes serve, each on a core of its own. More than one need "
        "`BALANCER_VALKEY_URL`; Prometheus asks each at a port of its own: those that follow "
        "`BALANCER_PORT`. Not on Windows.",
    )
    drain_delay: int = Field(
        default=0,
        ge=0,
        le=600,
        description="How long requests are still taken after a stop, in seconds: for a load "
        "balancer or Kubernetes to see `/llmhealth-ready` say 503, and to send them elsewhere.",
    )
    shutdown_timeout: int = Field(
        default=30,
        ge=0,
        description="How long requests in flight may go on after a stop, in seconds.",
    )

    rewrite_reasoning: bool = Field(
        default=True,
        description="Turn `-low`, `-medium` and `-high` after gpt-oss into a reasoning effort.",
    )
    rewrite_edit_suffix: bool = Field(
        default=True,
        description="Remove `-apply` and `-edit` from model names, and ask for plain responses.",
    )
    rewrite_grammar: bool = Field(
        default=True, description="Keep gpt-oss in its final channel for the agents Cline and Roo."
    )

    stable_prompts: Annotated[Literal["known", "learn", "off"], BeforeValidator(lower)] = Field(
        default="known",
        description="What becomes of text in system prompts that is new in every request, so that "
        "no cache would hold the prompt. `known`: lines such as Claude Code's "
        "`x-anthropic-billing-header` are taken out. `learn`: besides, where requests of a "
        "conversation differ in one short span, such as a clock, it stays as it was for up to "
        "10 minutes. `off`: all stays.",
    )

    home: Annotated[Literal["server", "monitor"], BeforeValidator(lower)] = Field(
        default="server",
        description="What browsers see at `/`: the page of the `server` that gets what is not "
        "routed, or the `monitor`, which they see as well where that server has none.",
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = Field(
        default="auto",
        description="`console`, `json`, or `auto`: console on a terminal, JSON otherwise.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = (
        Field(default="info", description="Least severe log lines to write.")
    )
    traces: Annotated[bool, AfterValidator(_traces)] = Field(
        default=False,
        description="Send a span of each request by OpenTelemetry, with the extra `otel`; its own "
        "variables say where to, such as `OTEL_EXPORTER_OTLP_ENDPOINT`.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @model_validator(mode="wrap")
    @classmethod
    def _know_all_servers(
        cls, data: Any, handler: ModelWrapValidatorHandler["Settings"]
    ) -> "Settings":
        """Add the mistakes between fields to those within them, so that all are told at once."""
        unknown = list(_unknown_servers(data))
        try:
            settings = handler(data)
        except ValidationError as error:
            raise _together([*map(_again, error.errors()), *unknown]) from None
        problems = [
            *unknown,
            *_loops(settings),
            *_twins(settings),
            *_tls(settings),
            *_joining(settings),
            *_workers(settings),
        ]
        if problems:
            raise _together(problems)
        return settings

    @property
    def certificate(self) -> Certificate | None:
        """What clients see that connect by TLS; None where they do not."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return Certificate(self.tls_cert, self.tls_key)

    @property
    def lets_join(self) -> bool:
        """Whether machines may join: with an address to join at, the token is for there."""
        return self.join_token is not None and self.join is None

    @property
    def needs_key(self) -> bool:
        """Whether clients need a key: with an empty file nobody has one."""
        return bool(self.api_keys) or self.api_keys_file is not None

    def all_keys(self) -> dict[str, ApiKeySettings]:
        """Read the keys of both places as they are now.

        Raises:
            ValueError: the file cannot be read, or both have the same name.
        """
        more = {} if self.api_keys_file is None else read_key_file(self.api_keys_file)
        if twice := self.api_keys.keys() & more.keys():
            raise mistake(f"has a key for {', '.join(sorted(twice))}, as BALANCER_API_KEYS does")
        return unlike({**self.api_keys, **more})

    def keys(self) -> list[tuple[str, Key]]:
        """Write all keys as a key ring takes them; errors are those of `all_keys`."""
        return [key.named(name) for name, key in self.all_keys().items()]

    def key_ring(self) -> KeyRing:
        """Build what knows the clients' keys."""
        admin_key = self.admin_key.get_secret_value() if self.admin_key else None
        metrics_key = self.metrics_key.get_secret_value() if self.metrics_key else None
        return KeyRing(self.keys(), admin_key, metrics_key=metrics_key, required=self.needs_key)

    def opened(self) -> dict[str, list[IPv4Network | IPv6Network]]:
        """Return from which networks a path needs no key."""
        return {
            path: [ip_network(text) for text in networks]
            for endpoint, networks in self.open_endpoints.items()
            for path in (endpoint, *BELOW.get(endpoint, ()))
        }

    def trusted_networks(self) -> list[IPv4Network | IPv6Network]:
        """Return where the proxies are that are believed."""
        return [ip_network(text) for text in self.trusted_proxies]

    def open_at(self) -> str | None:
        """Return the host where anybody on the network may use every model; None for nowhere."""
        empty = not self.servers and not self.lets_join
        if self.needs_key or self.insecure or empty:
            return None
        return reached_at(self.host)

    def origins(self) -> tuple[str, ...]:
        """Return which pages may ask for models: with keys any, since a page has none by itself."""
        return self.cors_origins or (("*",) if self.needs_key else ())

    @property
    def passes_control(self) -> bool:
        """Whether clients may change servers: where they need keys, only if that was set."""
        said = not self.needs_key or "pass_control" in self.model_fields_set
        return self.pass_control and said

    def forwarding(self) -> frozenset[str]:
        """Name the servers that get their clients' credentials."""
        return frozenset(
            name
            for name, server in self.servers.items()
            if server.gets_credentials(by_default=not self.needs_key)
        )

    def server_files(self) -> list[Path]:
        """Name the files that servers' settings are read from."""
        servers = (*self.servers.values(), *self.join_servers.values())
        return [file for server in servers for file in server.files]

    def fleet(self) -> Fleet:
        """Build what routing knows about servers and models."""
        servers = [settings.server(name) for name, settings in self.servers.items()]
        models = self.models or ({".*": tuple(self.servers)} if self.servers else {})
        return Fleet.of(servers, models, self.fallback_server)


def _unknown_servers(data: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """Find names of servers that there are not, as far as the values can be read."""
    servers = _read(from_servers_json, data.get("servers", {}))
    if not isinstance(servers, Mapping):
        return  # its own mistake comes first
    known = [str(name) for name in servers]
    there_are = f"there are {', '.join(known)}" if known else "BALANCER_SERVERS names none"
    example = known[0] if known else "PC1"
    models = _read(from_json, data.get("models", {}))
    for pattern, value in models.items() if isinstance(models, Mapping) else ():
        names = _read(listed, value)
        for name in names if isinstance(names, list | tuple) else ():
            if isinstance(name, str) and name not in known:
                problem = mistake(f'names an unknown server "{name}" ({there_are})', [example])
                yield InitErrorDetails(type=problem, loc=("models", pattern), input=value)
    fallback = data.get("fallback_server")
    if isinstance(fallback, str) and fallback not in known:
        problem = mistake(f'names an unknown server "{fallback}" ({there_are})', example)
        yield InitErrorDetails(type=problem, loc=("fallback_server",), input=fallback)


def _loops(settings: "Settings") -> Iterator[InitErrorDetails]:
    """Find servers whose model API would be this program itself."""
    for name, server in settings.servers.items():
        url = urlsplit(server.server(name).model_base)
        port = url.port or (443 if url.scheme == "https" else 80)
        if port == settings.port and is_own(settings.host, url.hostname or ""):
            problem = mistake(
                f"is the address that this balancer listens on ({settings.host}:{settings.port}); "
                "name the model server's own port",
                f"{url.scheme}://{url.hostname}:8081",
            )
            yield InitErrorDetails(type=problem, loc=("servers", name, "addr"), input=server.addr)


def _twins(settings: "Settings") -> Iterator[InitErrorDetails]:
    """Find keys that both places have, by their names or themselves."""
    try:
        settings.all_keys()
    except PydanticCustomError as problem:
        yield InitErrorDetails(type=problem, loc=("api_keys_file",), input="")


def _tls(settings: "Settings") -> Iterator[InitErrorDetails]:
    """Find a certificate without its key, or one that cannot be used."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing = "tls_key" if settings.tls_key is None else "tls_cert"
        problem = mistake("must be set where the other of certificate and key is")
        yield InitErrorDetails(type=problem, loc=(missing,), input=None)
    elif settings.certificate is not None:
        try:
            settings.certificate.load()
        except ValueError as error:
            yield InitErrorDetails(type=mistake(str(error)), loc=("tls_cert",), input=None)


HIGHEST_PORT: Final = 65535


def _workers(settings: "Settings") -> Iterator[InitErrorDetails]:
    """Find what keeps several processes from serving together."""
    if settings.workers == 1:
        return
    problem = None
    if sys.platform == "win32":
        problem = "must be 1 on Windows, where processes cannot share a socket so"
    elif settings.valkey_url is None:
        problem = "needs BALANCER_VALKEY_URL: the workers keep to each server's limit there"
    elif settings.port + settings.workers > HIGHEST_PORT:
        problem = f"needs as many ports behind BALANCER_PORT, which end at {HIGHEST_PORT}"
    if problem is not None:
        yield InitErrorDetails(type=mistake(problem), loc=("workers",), input=settings.workers)


def _joining(settings: "Settings") -> Iterator[InitErrorDetails]:
    """Find what keeps this machine from joining a balancer."""
    if settings.join is not None and settings.join_token is None:
        problem = mistake("must be set, as BALANCER_JOIN is", "a-long-random-text")
        yield InitErrorDetails(type=problem, loc=("join_token",), input=None)
    for name, server in settings.join_servers.items():
        if server.trust.ca_file or server.trust.client_cert or server.by_dns:
            problem = mistake("can be set only where the balancer is, in BALANCER_SERVERS")
            field = "addr" if server.by_dns else "ca_file"
            yield InitErrorDetails(type=problem, loc=("join_servers", name, field), input=None)


def _read(reader: Callable[[object], object], value: object) -> object:
    try:
        return reader(value)
    except ValueError:
        return None


def _again(details: ErrorDetails) -> InitErrorDetails:
    context = details.get("ctx", {}) | {"message": details["msg"]}
    problem = PydanticCustomError(details["type"], "{message}", context)
    return InitErrorDetails(type=problem, loc=details["loc"], input=details["input"])


def _together(details: list[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data("Settings", details)
