from tests.fakes.cuts import every_cut
from tests.fakes.loops import anyio_backend

__all__ = ["anyio_backend", "every_cut"]
