from tests.fakes.loops import anyio_backend

__all__ = ["anyio_backend"]
