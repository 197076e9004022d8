"""A modelled GPU machine: a model server, and beside it a real agent that reads a modelled GPU.

python -m app.demo.machine --name PC1 --port 8081 --agent-port 18000
"""

import argparse
import asyncio
from typing import Any

import uvicorn

from app.demo.completion import Speed
from app.demo.model_server import ModelServer
from app.downstream.server import config
from app.main import create_app
from app.settings import Settings
from app.telemetry.gpu.reader import Gpu

GIB = 2**30
IDLE_WATTS, FULL_WATTS = 25.0, 350.0
COOL, HOT = 38.0, 74.0


class ModelledGpu:
    """Reads a GPU that is as busy as a model server is (a `GpuReader`)."""

    backend = "modelled"

    def __init__(self, server: ModelServer, pace: float) -> None:
        self._server = server
        self._pace = pace
        self._joules = 0.0

    def read(self) -> tuple[Gpu, ...]:
        load = self._server.gpu_percent() / 100
        watts = IDLE_WATTS + load * (FULL_WATTS - IDLE_WATTS)
        self._joules += watts * self._pace
        return (
            Gpu(
                index=0,
                name="Modelled GPU",
                uuid=f"GPU-{self._server.name}",
                utilization=100 * load,
                memory_used=int((14 + 2 * load) * GIB),
                memory_total=24 * GIB,
                temperature=COOL + load * (HOT - COOL),
                power=watts,
                energy=self._joules,
                driver_version="modelled",
            ),
        )

    def close(self) -> None: ...


async def serve(server: ModelServer, host: str, port: int, agent_port: int) -> None:
    """Serve both until a signal comes."""
    agent = create_app(Settings(), reader=ModelledGpu(server, pace=1.0))
    options: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": 1}
    configs = [
        uvicorn.Config(
            server.app,
            host,
            port,
            interface="asgi3",
            access_log=False,
            lifespan="off",
            **options,
        ),
        config(agent.handler, agent.lifespan, host=host, port=agent_port, **options),
    ]
    servers = [uvicorn.Server(each) for each in configs]
    await asyncio.gather(*(each.serve() for each in servers))


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description="A modelled GPU machine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081, help="of the model server")
    parser.add_argument("--agent-port", type=int, default=18000)
    parser.add_argument("--name", default="PC1")
    parser.add_argument("--models", default="qwen3:8b", help="names, separated by commas")
    parser.add_argument("--slots", type=int, default=3, help="of each model")
    parser.add_argument("--prefill", type=float, default=600.0, help="tokens per second")
    parser.add_argument("--decode", type=float, default=30.0, help="tokens per second")
    asked = parser.parse_args()
    speed = Speed(asked.prefill, asked.decode)
    models = asked.models.split(",")
    server = ModelServer(asked.name, models, slots=asked.slots, speed=speed)
    asyncio.run(serve(server, asked.host, asked.port, asked.agent_port))


if __name__ == "__main__":
    main()
