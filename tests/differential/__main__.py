"""Play byte scripts against another tree of this program and this one.

    git worktree add /somewhere COMMIT && python -m tests.differential /somewhere

What one of them alone sends to a client or to a server is printed; nothing, where they agree.
"""

import argparse
import asyncio
import contextlib
import difflib
import re
import sys
from pathlib import Path
from typing import get_args

from tests.differential.cases import Case, cases
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Cut, Message, Visit, listening, ok, packets

QUIET = 0.15
"""Seconds without a byte after which nothing more is expected."""

NORMAL = (
    (rb"x-request-id: [0-9a-f]+-[0-9a-f]+", b"x-request-id: ID"),
    (rb"llama-balancer-[0-9a-f]+", b"llama-balancer-ME"),
    (rb"127\.0\.0\.1:\d+", b"127.0.0.1:PORT"),
    (rb'"gpu_util_max5s":[0-9.]+', b'"gpu_util_max5s":0'),
)
"""What differs between any two runs."""

Played = tuple[bytes, list[str]]
"""What the client has got, and the requests that the server has."""


def main() -> int:
    """Compare two trees; 1 where they differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("old", type=Path, help="the other tree")
    arguments = parser.parse_args()
    differences = asyncio.run(_compare(arguments.old))
    print(f"{len(differences)} differences", file=sys.stderr)
    print("\n\n".join(differences))
    return 1 if differences else 0


async def _compare(old: Path) -> list[str]:
    before, now = await asyncio.gather(_play_all(old), _play_all(Path.cwd()))
    return [
        f"## {name}\n"
        + "\n".join(difflib.unified_diff(_lines(before[name]), _lines(played), n=1, lineterm=""))
        for name, played in now.items()
        if played != before[name]
    ]


def _lines(played: Played) -> list[str]:
    received, requests = played
    return [*map(repr, received.splitlines()), "", *requests]


async def _play_all(tree: Path) -> dict[str, Played]:
    """Play every case, cut in every way, against one tree's program."""
    present = Case(b"")
    requests: list[str] = []

    async def script(visit: Visit) -> None:
        while True:
            message = await visit.message()
            if message.start.startswith(("GET /v1/models ", "GET /props", "GET /slots")):
                await visit.say(ok(b'{"data":[{"id":"m"}]}'))
                continue
            requests.append(_shown(message))
            await visit.say(present.response)
            if present.closes:
                return

    played: dict[str, Played] = {}
    async with (
        listening(script) as port,
        balancing(
            {"A": {"addr": f"http://127.0.0.1:{port}"}}, tree=tree, probe_interval=3600
        ) as running,
    ):
        for name, case in cases().items():
            for cut in get_args(Cut):
                present = case
                received = await _received(running, case.sent, cut)
                played[f"{name}, {cut}"] = _normal(received), requests.copy()
                requests.clear()
    return played


async def _received(running: Running, sent: bytes, cut: Cut) -> bytes:
    """Send bytes, and read whatever comes until it is quiet."""
    received = b""
    async with running.client() as client:
        for packet in packets(sent, cut):
            if client.writer.is_closing():
                break
            client.writer.write(packet)
            await asyncio.sleep(0.0002 if cut != "whole" else 0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while data := await asyncio.wait_for(client.reader.read(1 << 20), QUIET):
                received += data
            received += b"\n(closed)"
    return received


def _shown(message: Message) -> str:
    headers = "\n".join(f"{name}: {value}" for name, value in message.headers)
    return _normal(f"{message.start}\n{headers}\n{message.body!r}".encode()).decode()


def _normal(text: bytes) -> bytes:
    for pattern, shown in NORMAL:
        text = re.sub(pattern, shown, text)
    return text


if __name__ == "__main__":
    sys.exit(main())
