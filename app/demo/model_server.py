"""A modelled llama-server: OpenAI's API, slots, prompt caches and speeds, without a model.

Run one with `python -m app.demo.model_server --port 9001 --models qwen3:8b --slots 2`, or
put `ModelServer(...).app` under any ASGI server.
"""

import argparse
import asyncio
import itertools
import json
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import uvicorn

from app.demo.answer import Answer
from app.demo.completion import CREATED, INSTANT, BadRequest, Completion, Json, Speed
from app.demo.prose import answer_to, tokens_of, vector_of
from app.demo.slots import Load, Slot, Slots

WINDOW_SECONDS = 5
BUSY_PERCENT = 50
CONTEXT = 32_768

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Request(NamedTuple):
    """A request that came."""

    method: str
    path: str
    """With the query, as it was sent."""
    headers: list[tuple[bytes, bytes]]
    body: bytes


class ModelServer:
    """Several models on one machine; each has `slots` slots, further requests wait inside.

    Attributes:
        active: model requests inside now, waiting ones included.
        peak: the most there ever were.
        served, cancelled: model requests that were answered, and whose client left.
        requests: the last requests of any kind, the newest at the end.
    """

    def __init__(
        self,
        name: str = "PC1",
        models: Sequence[str] = ("qwen3:8b",),
        *,
        slots: int = 1,
        ram: int = 0,
        speed: Speed = INSTANT,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.slots = {model: Slots(slots, ram) for model in models}
        self.active = self.peak = self.served = self.cancelled = 0
        self.requests: deque[Request] = deque(maxlen=100)
        self._room = {model: asyncio.Condition() for model in models}
        self._numbers = itertools.count(1)
        self._load = Load(WINDOW_SECONDS)
        self._speed = speed
        self._clock = clock
        self._sleep = sleep
        self._changed = threading.Condition()

    async def app(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        assert scope["type"] == "http"
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = Answer(send)
        path, query = scope["path"], scope["query_string"].decode()
        target = f"{path}?{query}" if query else path
        self.requests.append(Request(scope["method"], target, scope["headers"], body))
        match scope["method"], path:
            case "POST", "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings":
                await _while_connected(receive, self._infer(path, body, answer))
            case "GET", _ if (page := self._page(path)) is not None:
                await answer.page(page)
            case _:
                await answer.refuse(404, "File Not Found", "not_found_error")

    def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Block until the counts fulfil a condition; not in the thread that serves.

        Raises:
            TimeoutError: they did not within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError("the model server did not come to that state")

    def _page(self, path: str) -> Json | list[Json] | str | None:
        match path:
            case "/":
                return f"{self.name}: a modelled model server. Models: {', '.join(self.slots)}\n"
            case "/health":
                return {"status": "ok"}
            case "/llmhealth":
                return self._health()
            case "/props" | "/slots" if len(self.slots) > 1:
                return None  # llama-server has one model; this is more like llama-swap
            case "/props":
                return {
                    "default_generation_settings": {"n_ctx": CONTEXT},
                    "total_slots": sum(len(slots) for slots in self.slots.values()),
                    "model_alias": next(iter(self.slots)),
                    "build_info": "modelled",
                }
            case "/slots":
                return [
                    {"id": slot.number, "n_ctx": CONTEXT}
                    | {"is_processing": slot.busy, "n_prompt_tokens_cache": len(slot.tokens)}
                    for slots in self.slots.values()
                    for slot in slots
                ]
            case "/v1/models":
                facts = {"object": "model", "created": CREATED, "owned_by": "llamacpp"}
                return {"object": "list", "data": [{"id": model} | facts for model in self.slots]}
        return None

    def gpu_percent(self) -> float:
        """Model the highest GPU utilisation of the last seconds; any thread may ask."""
        # One sequence leaves some of a GPU idle; more of them fill it up.
        return round(100 * (1 - 0.3 ** self._load.peak(self._clock())), 1)

    def _health(self) -> Json:
        percent = self.gpu_percent()
        return {
            "status": "busy" if percent >= BUSY_PERCENT else "idle",
            "gpu_util_max5s": percent,
            "window_seconds": WINDOW_SECONDS,
        }

    async def _infer(self, path: str, raw: bytes, answer: Answer) -> None:
        try:
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise BadRequest("the body must be an object")
            model = body.get("model") or next(iter(self.slots))
            if not isinstance(model, str) or model not in self.slots:
                message = f"model {json.dumps(model)} not found"
                await answer.refuse(404, message, code="model_not_found")
                return
            with self._counted():
                if path == "/v1/embeddings":
                    await self._embed(body, model, answer)
                else:
                    chat = path == "/v1/chat/completions"
                    completion = Completion.read(body, model, self.name, chat=chat)
                    if completion.slot is not None and completion.slot >= len(self.slots[model]):
                        raise BadRequest("id_slot names no slot")
                    await self._complete(completion, answer)
        except ValueError as error:
            await answer.refuse(400, str(error))

    async def _complete(self, completion: Completion, answer: Answer) -> None:
        completion.number = next(self._numbers)
        wanted = completion.slot
        async with self._slot(completion.model, completion.prompt, wanted) as (
            slot,
            completion.cached,
        ):
            tokens = answer_to(completion.prompt, completion.most, endless=completion.endless)
            if not completion.stream:
                completion.answer = list(tokens)
                await self._work(len(completion.answer), self._speed.decode)
                slot.tokens += completion.answer
            else:
                await answer.open_stream()
                for event in completion.opening():
                    await answer.piece(event)
                for token in tokens:
                    await self._work(1, self._speed.decode)
                    completion.answer.append(token)
                    slot.tokens.append(token)
                    await answer.piece(completion.piece(token))
                    await asyncio.sleep(0)  # who has left must be noticed at any speed
        if completion.stream:
            await answer.piece(b"".join(completion.closing(self._speed)))
            await answer.end()
        else:
            await answer.page(completion.whole(self._speed))

    async def _embed(self, body: Json, model: str, answer: Answer) -> None:
        given = body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadRequest("input must be a text or a list of texts")
        prompt = [token for text in texts for token in tokens_of(text)]
        async with self._slot(model, prompt):
            pass
        data = [
            {"object": "embedding", "index": index, "embedding": vector_of(text)}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(prompt), "total_tokens": len(prompt)}
        await answer.page({"object": "list", "model": model, "data": data, "usage": usage})

    @asynccontextmanager
    async def _slot(
        self, model: str, prompt: list[str], wanted: int | None = None
    ) -> AsyncIterator[tuple[Slot, int]]:
        """Wait for a slot and let it read the prompt."""
        slots, room = self.slots[model], self._room[model]
        async with room:
            await room.wait_for(lambda: slots.free(wanted))
            slot, cached = slots.take(prompt, wanted)
        self._load.change(+1, self._clock())
        try:
            await self._work(len(prompt) - cached, self._speed.prefill)
            slot.tokens = prompt.copy()
            yield slot, cached
        finally:
            slots.give_back(slot, self._clock())
            self._load.change(-1, self._clock())
            asyncio.get_running_loop().create_task(_announce(room))

    async def _work(self, tokens: int, speed: float) -> None:
        if math.isfinite(speed):
            await self._sleep(tokens / speed)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self.active += 1
            self.peak = max(self.peak, self.active)
            self._changed.notify_all()
        served = cancelled = 0
        try:
            yield
            served = 1
        except asyncio.CancelledError:
            cancelled = 1
            raise
        finally:
            with self._changed:
                self.active -= 1
                self.served += served
                self.cancelled += cancelled
                self._changed.notify_all()


async def _announce(room: asyncio.Condition) -> None:
    """Tell those who wait for a slot that one is free; who leaves one cannot wait for that."""
    async with room:
        room.notify_all()


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do some work; cancel it when the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())  # the body has been read: only this can come
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))
    if not working.cancelled():
        working.result()


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description="A modelled model server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--name", default="PC1")
    parser.add_argument("--models", default="qwen3:8b", help="names, separated by commas")
    parser.add_argument("--slots", type=int, default=1, help="of each model")
    parser.add_argument(
        "--ram", type=int, default=0, help="tokens kept of prompts that left their slots"
    )
    parser.add_argument("--prefill", type=float, default=math.inf, help="tokens per second")
    parser.add_argument("--decode", type=float, default=math.inf, help="tokens per second")
    asked = parser.parse_args()
    speed = Speed(asked.prefill, asked.decode)
    models = asked.models.split(",")
    server = ModelServer(asked.name, models, slots=asked.slots, ram=asked.ram, speed=speed)
    uvicorn.run(
        server.app,
        host=asked.host,
        port=asked.port,
        interface="asgi3",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
