"""A request that makes a model work: who asks for which model, and what goes out."""

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from app.apis.aliases import Aliases
from app.apis.endpoints import CHAT_PATH, OTHER, RESPONSES_PATH, Api, api_of
from app.apis.json_body import TOO_DEEP, BadRequest, Body
from app.apis.multipart import Form, boundary_of
from app.apis.prompts import PROMPTS, brief, system_text
from app.apis.rewrites import Rewrites
from app.apis.session_keys import session_key
from app.apis.stable_prompts import HOME
from app.apis.structure import LARGE, give_way
from app.apis.unasked_usage import OPTIONS, asking
from app.apis.usage import CHARACTERS
from app.routing.choice import Ask
from app.routing.patterns import NAME_LIMIT
from app.routing.prompt import Prompt
from app.routing.prompt_cache import WORTH_KEEPING

SYSTEM_TEXT_LIMIT: Final = 4_000
"""How much of a system message is searched for the user's name, in characters."""

SLOT: Final = "id_slot"
"""Tells llama.cpp's server which slot to use; a busy one is waited for.

https://github.com/ggml-org/llama.cpp/tree/master/tools/server
"""

CHAT_PATHS: Final = (CHAT_PATH, "/chat/completions")
"""Chat completions, by OpenAI's path and by one that llama.cpp's server has as well."""

CONVERSATIONS: Final = ("chat", "input")
"""Kinds of prompts that have a system message, or instructions."""

LONE_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")

NO_FIELDS: Final[Mapping[bytes, bytes]] = MappingProxyType({})

UNKNOWN: Final = "(unknown)"
"""Stands for the model of a request of whose path nothing is known."""

SHORT: Final = Prompt([])
"""Stands for every prompt that is too short to be worth a look."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How requests are read, as the settings have it.

    `username` finds the user's name in a system message. Prompts are read only where they
    matter to routing.
    """

    username: Callable[[str], str | None]
    rewrites: Rewrites
    aliases: Aliases = field(default_factory=Aliases)
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prompts: bool = True


class ModelRequest:
    """A request that is routed by the model that it names."""

    __slots__ = (
        "_body",
        "_path",
        "_rewrites",
        "_system",
        "_written",
        "ask",
        "fallbacks",
        "named",
        "previous",
        "received",
        "session",
        "streams",
        "tokens",
        "username",
    )

    def __init__(
        self,
        reading: Reading,
        path: str,
        raw: bytes,
        address: str,
        fields: Mapping[bytes, bytes] = NO_FIELDS,
    ) -> None:
        """Read a request from a client at `address`; `fields` are its headers.

        Raises:
            BadRequest: the body is no JSON object and no form, or its model is no text.
        """
        self._path = path
        api = api_of(path)
        self.received = raw
        """The body as it came."""
        if api.prompt in CONVERSATIONS:
            give_way(raw)
            raw = reading.rewrites.stabilise(raw, address)
        self._body = body = _read(raw, fields.get(b"content-type", b""))
        self._rewrites = reading.rewrites
        get = body.get
        prompt = None
        self.streams = _streams(api, body)
        self._system = system = system_text(get)[:SYSTEM_TEXT_LIMIT]
        if reading.prompts and api.prompt is not None:
            try:
                prompt = PROMPTS[api.prompt](get) if len(raw) >= WORTH_KEEPING else SHORT
            except RecursionError:
                raise BadRequest(TOO_DEEP) from None
        if prompt is not None and prompt is not SHORT:
            prompt.brief = brief(get)
        self.previous = get("previous_response_id") if path == RESPONSES_PATH else None
        """The response that it continues, by its id."""
        length = len(raw) if prompt is None or prompt is SHORT else prompt.size
        self.tokens = length // CHARACTERS if api.tokens else 0
        """How many tokens its prompt may have, by its length."""
        # They are long, and the response may take minutes.
        body.forget("messages", "tools", "prompt", "input")
        named = get("model")
        if named is None:
            named = ""  # the server has a model of its own: the fallback decides
        elif not isinstance(named, str):
            raise BadRequest("model must be a string")
        elif not named.isascii() and LONE_SURROGATE.search(named):
            raise BadRequest("model holds half a surrogate pair")
        elif len(named) > NAME_LIMIT:
            raise BadRequest(f"model is longer than {NAME_LIMIT} characters")
        self.named = self._written = named
        model = reading.aliases.model(named)
        self.fallbacks = reading.fallbacks.get(model, ())
        """Models that may respond in place of its own."""
        self.username = username = reading.username(system) if system else None
        names = reading.rewrites.names(model)
        self.session = session = session_key(fields, get)
        self.ask = Ask(
            model,
            names,
            username or address,
            address,
            prompt,
            routed=bool(named),
            takes_slot=api.slot and SLOT not in body and get("n") in (None, 1),
            works=api.works,
            session=session,
        )
        self.ask.context = _context(api, get)
        if len(raw) > LARGE and isinstance(body, Body):
            body.keep("model", "chat_template_kwargs", OPTIONS)

    def asking_for(self, model: str) -> Ask:
        """Write what it would want of another model."""
        ask = self.ask
        other = Ask(
            model,
            self._rewrites.names(model),
            ask.client,
            ask.address,
            ask.prompt,
            takes_slot=ask.takes_slot,
            works=ask.works,
            session=ask.session,
        )
        other.prefer, other.avoid = ask.prefer, ask.avoid
        other.context = ask.context
        return other

    def take(self, ask: Ask) -> None:
        """Want another model instead."""
        self.ask = ask
        self.named = ask.model

    def unrouted_model(self) -> str | None:
        """Name no model: it was routed by its own, or has none."""
        return None

    @property
    def hides_usage(self) -> bool:
        """Whether it asks for a stream without its usage, where it could ask for it."""
        asks = self.streams and api_of(self._path).asks_usage
        return asks and asking(self._body.get(OPTIONS)) is not None

    def body_for(
        self,
        instance: str,
        slot: int | None = None,
        authority: bytes = b"",
        *,
        usage: bool = False,
    ) -> bytes:
        """Write the body for where it goes: nothing but model, slot and the rewrites changes.

        With `usage` it asks for the stream's usage, too.
        """
        if authority == HOME:
            received, body = self.received, self._body
            if not self.named:
                return received
            return (body if body.raw is received else Body(received)).edited({"model": instance})
        changes: dict[str, object] = {}
        if usage and (options := asking(self._body.get(OPTIONS))) is not None:
            changes[OPTIONS] = options
        if not self.named:
            return self._body.edited(changes)
        if self._path in CHAT_PATHS:
            changes |= self._rewrites.changes(
                self.ask.model,
                instance,
                self._body.get("chat_template_kwargs"),
                self._system,
                has_grammar="grammar" in self._body,
            )
        elif api_of(self._path).streams and (effort := self._rewrites.effort(self.ask.model)):
            changes["think"] = effort
        if slot is not None and self.ask.takes_slot:
            changes[SLOT] = slot
        if instance == self._written and not changes:
            return self._body.raw
        return self._body.edited({"model": instance, **changes})


class UnroutedRequest:
    """A request that makes a model work, but goes to the fallback as it is."""

    __slots__ = (
        "_routable",
        "_stable",
        "ask",
        "fallbacks",
        "hides_usage",
        "named",
        "received",
        "session",
        "streams",
        "tokens",
        "username",
    )

    def __init__(self, rewrites: Rewrites, path: str, raw: bytes, address: str) -> None:
        model = UNKNOWN if path == OTHER else path
        self.ask = Ask(model, (model,), address, address, routed=False)
        api = api_of(path)
        self.received = raw
        self.fallbacks: tuple[str, ...] = ()
        self._routable = api.routable and path != OTHER
        self._stable = rewrites.stabilise(raw, address) if api.prompt in CONVERSATIONS else raw
        self.username: str | None = None
        self.session = ""
        self.named = ""
        self.tokens = len(raw) // CHARACTERS if api.tokens else 0
        self.hides_usage = False
        """It goes out as it is."""
        self.streams = api.streams
        if api.prompt is not None and b'"stream"' in raw:
            with contextlib.suppress(BadRequest):  # the server will say so
                self.streams = _streams(api, Body(raw))

    def unrouted_model(self) -> str | None:
        """Name the model by which it could have been routed."""
        if not self._routable or len(self.received) > LARGE:
            return None
        try:
            name = Body(self.received).get("model")
        except BadRequest:
            return None
        return name if isinstance(name, str) else None

    def body_for(
        self,
        instance: str,
        slot: int | None = None,
        authority: bytes = b"",
        *,
        usage: bool = False,
    ) -> bytes:
        """Return the body, whatever the model is called there."""
        return self.received if authority == HOME else self._stable


def _streams(api: Api, body: Body | Form) -> bool:
    """Whether a request asks for a stream."""
    streams = body.get("stream")
    return streams is True or (streams is None and api.streams)


def _read(raw: bytes, content_type: bytes) -> Body | Form:
    if content_type[:1] not in b"mM":  # most are JSON
        return Body(raw)
    boundary = boundary_of(content_type)
    return Body(raw) if boundary is None else Form(raw, boundary)


def username_finder(pattern: re.Pattern[str]) -> Callable[[str], str | None]:
    """Make what finds the user's name in a system message: the pattern's first group.

    A pattern may look at each place in many ways, 40 ns for each character, and a chat
    begins with the same system message each time: the last ones are remembered.
    """

    @functools.lru_cache(256)
    def find(system: str) -> str | None:
        match = pattern.search(system)
        if match is None:
            return None
        name = (match.group(1) or "").strip()
        if not name.isascii():  # a lone surrogate could be neither logged nor shown
            name = name.encode(errors="replace").decode()
        return name[:128] or None

    return find


def _context(api: Api, get: Callable[[str], object]) -> int:
    """Read how many tokens of context a request wants, as Ollama's may say; 0 where it does not.

    https://github.com/ollama/ollama/blob/main/docs/modelfile.md#valid-parameters-and-values
    """
    if not api.streams:  # as Ollama's do
        return 0
    options = get("options")
    wanted = options.get("num_ctx") if isinstance(options, dict) else None
    return wanted if isinstance(wanted, int) and wanted > 0 else 0
