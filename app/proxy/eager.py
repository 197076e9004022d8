"""Run a coroutine from a callback, at once, without a task."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Eager:
    """A coroutine that starts now and goes on by callbacks wherever it has to wait.

    ASGI's `send` and `receive` are coroutines that mostly need not wait: a task for each
    would cost more than they do, and would run one turn of the loop late. This is what
    Python 3.12 calls an eager task, as far as we need it, on 3.11 too.

    `done` is told the exception that ended the coroutine, or None. It is not called once
    the coroutine was closed.
    """

    __slots__ = ("_coroutine", "_done", "_waits_for", "ended")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        done: Callable[[Exception | None], None],
    ) -> None:
        self._coroutine = coroutine
        self._done: Callable[[Exception | None], None] | None = done
        self._waits_for: asyncio.Future[Any] | None = None
        self.ended = False
        self._step()

    def close(self) -> None:
        """Stop the coroutine where it waits."""
        if not self.ended:
            self.ended = True
            self._done = None  # it refers back to our owner
            if self._waits_for is not None:
                self._waits_for.remove_done_callback(self._step)
            self._coroutine.close()

    def _step(self, _: object = None) -> None:
        if self.ended:
            return
        try:
            waits_for = self._coroutine.send(None)
        except StopIteration:
            self._end(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, `done` decides
            self._end(error)
        else:
            self._waits_for = waits_for
            if waits_for is None:  # a bare yield, as in asyncio.sleep(0)
                asyncio.get_running_loop().call_soon(self._step)
            else:
                # The flag tells asyncio's own tasks that a future was awaited, not yielded.
                waits_for._asyncio_future_blocking = False
                waits_for.add_done_callback(self._step)

    def _end(self, error: Exception | None) -> None:
        self.ended = True
        done, self._done = self._done, None
        if done is not None:
            done(error)
