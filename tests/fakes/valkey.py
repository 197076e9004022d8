"""A real Valkey, or Redis, which speaks the same, as a process of its own."""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.fakes.ports import free_port

PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")
"""None where neither is installed."""

PATIENCE = 10.0


class Valkey:
    """A store that can be stopped, paused and started again, empty."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *words: str) -> None:
        """Start it, with nothing in it; `words` say what else it is."""
        await self.run("--port", str(self.port), "--save", "", "--appendonly", "no", *words)

    async def run(self, *words: str) -> None:
        """Run the program with these words alone, until it responds."""
        assert PROGRAM is not None
        self._process = await asyncio.create_subprocess_exec(
            PROGRAM, *words, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError, RuntimeError):
                    await self.ask("PING")
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Stop it at once; it forgets everything."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def pause(self) -> None:
        """Have it say nothing, though its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def ask(self, *words: str) -> str:
        """Give it a command; return the first line of what it says.

        Raises:
            RuntimeError: it says that this is an error.
        """
        return (await self._say(words))[0]

    async def read(self, *words: str) -> str:
        """Give it a command; return the text that it says.

        Raises:
            RuntimeError: it says that this is an error.
        """
        return (await self._say(words))[1]

    async def _say(self, words: Sequence[str]) -> tuple[str, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            writer.write(f"*{len(words)}\r\n{''.join(parts)}".encode())
            said, text = (await reader.readline()).decode().strip(), ""
            if said.startswith("$"):
                text = (await reader.readexactly(max(0, int(said[1:])))).decode()
        finally:
            writer.close()
        if not said or said.startswith("-"):
            raise RuntimeError(said)
        return said, text


class Pair(Valkey):
    """A primary with a replica, and a Sentinel that has the replica take over."""

    def __init__(self) -> None:
        super().__init__()
        self._replica, self._sentinel = Valkey(), Valkey()
        self.url = f"redis+sentinel://127.0.0.1:{self._sentinel.port}/primary/0"

    async def begin(self, folder: Path) -> None:
        """Start all three, and wait until each knows of the others."""
        await self.start()
        await self._replica.start("--replicaof", f"127.0.0.1 {self.port}")
        file = folder / "sentinel.conf"
        file.write_text(
            f"port {self._sentinel.port}\n"
            f"sentinel monitor primary 127.0.0.1 {self.port} 1\n"
            "sentinel down-after-milliseconds primary 500\n"
            "sentinel failover-timeout primary 2000\n"
        )
        await self._sentinel.run(str(file), "--sentinel")
        async with asyncio.timeout(PATIENCE * 2):
            while await self._sentinel.ask("SENTINEL", "REPLICAS", "primary") != "*1":
                await asyncio.sleep(0.1)

    async def end(self) -> None:
        """Stop all three."""
        for one in (self._sentinel, self._replica, self):
            await one.stop()


class Late:
    """A way to a store on which everything takes longer, once it shall."""

    def __init__(self, store: Valkey) -> None:
        self.seconds = 0.0
        self.seen = bytearray()
        """All that went either way."""
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._store = store

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Late"]:
        """Pass on what comes, until the block ends."""
        async with await asyncio.start_server(self._pass, "127.0.0.1", self.port):
            yield self

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_store = await asyncio.open_connection("127.0.0.1", self._store.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            self._copy(reader, to_store[1]),
            self._copy(to_store[0], writer),
            return_exceptions=True,
        )

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await asyncio.sleep(self.seconds)
                self.seen += data
                writer.write(data)
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def valkey() -> AsyncIterator[Valkey]:
    """Run a store until the block ends."""
    store = Valkey()
    await store.start()
    try:
        yield store
    finally:
        await store.stop()
