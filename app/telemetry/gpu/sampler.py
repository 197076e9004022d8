"""The local GPUs: how often they are read, and whether they are busy."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import structlog

from app.telemetry import logs
from app.telemetry.gpu.reader import Gpu, GpuReader, GpuUnavailable, NoReader, Reason

Status = Literal["idle", "busy"]

STOP_SECONDS = 0.5
"""How long `stop` waits for a driver call that is under way."""

log = structlog.get_logger(__name__)


class GpuSampler:
    """Reads the GPUs at an interval, in a thread, and remembers the last few seconds.

    The machine is busy when the highest utilisation of any GPU in the window reaches
    `busy_percent`. What is not known counts as fully busy: before the first reading, when the
    readings have failed or hung for longer than the window, and where no GPU reports its
    utilisation. So the status and the number never contradict each other, and a balancer that
    sees only one of them sends its requests to a machine whose state it knows. Without a GPU
    library there is nothing to know: 0 %, idle.

    The thread replaces whole tuples and never changes one, so any thread may read properties.
    """

    def __init__(
        self,
        reader: GpuReader,
        interval: float = 1.0,
        window_seconds: int = 5,
        busy_percent: float = 50.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self.change(interval=interval, window_seconds=window_seconds, busy_percent=busy_percent)
        self._clock = clock
        self._expected = not isinstance(reader, NoReader)
        self._readings: tuple[tuple[float, float], ...] = ()  # when, and the highest percentage
        self._latest: tuple[float, tuple[Gpu, ...]] | None = None
        self._state = ""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.errors: Counter[str] = Counter()
        """Failed reads since the start, by reason."""

    def change(self, *, interval: float, window_seconds: int, busy_percent: float) -> None:
        """Read and judge so from now on."""
        self._interval = interval
        self._window_seconds = window_seconds
        # A window shorter than the pace of the readings would be empty between two of them.
        self._horizon = max(window_seconds, 2 * interval)
        self._busy_percent = busy_percent

    @property
    def backend(self) -> str:
        """The reader's name: nvml, pdh or none."""
        return self._reader.backend

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The latest readings; none while they fail, or once they are older than the window."""
        return self._current() or ()

    @property
    def up(self) -> bool | None:
        """Whether the last read worked, and lately; None where no GPU is expected."""
        return self._current() is not None if self._expected else None

    @property
    def utilization(self) -> float | None:
        """The window's highest utilisation of any GPU in percent; None while it is unknown."""
        if not self._expected:
            return 0.0
        oldest = self._clock() - self._horizon
        return max((percent for at, percent in self._readings if at >= oldest), default=None)

    @property
    def status(self) -> Status:
        return self._judge(self.utilization)

    def health(self) -> dict[str, object]:
        """Answer `GET /llmhealth`; never raises, never waits."""
        percent = self.utilization
        return {
            "status": self._judge(percent),
            "gpu_util_max5s": 100.0 if percent is None else percent,
            "window_seconds": self._window_seconds,
        }

    def start(self) -> None:
        """Start the thread; does nothing while it runs, or where there is nothing to read."""
        if self._thread is not None or not self._expected:
            return
        # Each run has an event of its own: a late call of an old run must still see its end.
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stopping,), name="gpu-sampler", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. One that is stuck in a driver call is left behind after a moment."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join(STOP_SECONDS)

    def sample_once(self) -> None:
        """Read the GPUs now; a failure is counted, never raised."""
        try:
            gpus = self._reader.read()
        except GpuUnavailable as failure:
            self._failed(failure.reason, str(failure))
        except Exception as failure:  # noqa: BLE001 - a thread that died would never recover
            self._failed("unknown", repr(failure))
        else:
            if gpus is not None:
                self._succeeded(gpus)

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                self.sample_once()
            except Exception:  # noqa: BLE001 - logged and counted
                logs.task_failed("gpus")
            stopping.wait(self._interval)
        self._reader.close()

    def _succeeded(self, gpus: tuple[Gpu, ...]) -> None:
        now = self._clock()
        self._latest = (now, gpus)
        known = [gpu.utilization for gpu in gpus if gpu.utilization is not None]
        if gpus and not known:
            if self._entered("silent"):
                log.warning("gpus report no utilization: busy", backend=self.backend)
            return
        recent = [reading for reading in self._readings if reading[0] >= now - self._horizon]
        self._readings = (*recent, (now, float(max(known, default=0.0))))
        if self._entered("read"):
            log.info("gpus read", backend=self.backend, gpus=len(gpus))

    def _failed(self, reason: Reason, detail: str) -> None:
        self._latest = None
        self.errors[reason] += 1
        if self._entered(reason):
            log.warning("gpus not read", backend=self.backend, reason=reason, detail=detail)

    def _current(self) -> tuple[Gpu, ...] | None:
        latest = self._latest
        return latest[1] if latest and latest[0] >= self._clock() - self._horizon else None

    def _judge(self, percent: float | None) -> Status:
        return "busy" if percent is None or percent >= self._busy_percent else "idle"

    def _entered(self, state: str) -> bool:
        """Note the state, and return whether it is new: a log line each second helps nobody."""
        changed, self._state = state != self._state, state
        return changed
