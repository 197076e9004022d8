"""The command line, in a process of its own."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


async def command(
    folder: Path, *arguments: str, settings: Mapping[str, str] | None = None, typed: str = ""
) -> tuple[int | None, str, str]:
    """Run a command in a folder; return its exit status, and what it wrote to both outputs."""
    paths = {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), "PYTHONSAFEPATH": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", *arguments),
        cwd=folder,
        env={"BALANCER_SECRETS_DIR": str(folder), **paths, **(settings or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(typed.encode()), 30)
    return process.returncode, output.decode(), errors.decode()
