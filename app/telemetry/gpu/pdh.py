"""The GPUs of a Windows machine, of any vendor, read from its performance counters."""

import re
from contextlib import suppress
from typing import Any

from app.telemetry.gpu.reader import Gpu, GpuUnavailable, Reason

ENGINES = r"\GPU Engine(*)\Utilization Percentage"
"""One value for each process, adapter and engine, such as 3D, Compute, Copy or VideoDecode."""

ADAPTER = re.compile(r"luid_0x[0-9a-f]+_0x[0-9a-f]+_phys_\d+", re.IGNORECASE)
"""The part of an instance's name that says which GPU; the name also has process and engine."""

UNSTEADY = {
    0xC0000BC6,  # PDH_INVALID_DATA
    0xC0000BBA,  # PDH_CSTATUS_INVALID_DATA
    0x800007D6,  # PDH_CALC_NEGATIVE_DENOMINATOR
    0x800007D7,  # PDH_CALC_NEGATIVE_TIMEBASE
    0x800007D8,  # PDH_CALC_NEGATIVE_VALUE
}
"""What a rate may say when two collections do not fit together. New ones will."""

REASONS: dict[int, Reason] = {
    0xC0000BB8: "library_not_found",  # PDH_CSTATUS_NO_OBJECT: a Windows without GPU counters
    0xC0000BB9: "library_not_found",  # PDH_CSTATUS_NO_COUNTER
    0x00000005: "no_permission",  # ERROR_ACCESS_DENIED
    0xC0000BDB: "no_permission",  # PDH_ACCESS_DENIED
    0x800007D1: "lost",  # PDH_CSTATUS_NO_INSTANCE
    0x800007D5: "lost",  # PDH_NO_DATA
    0xC0000BBC: "lost",  # PDH_INVALID_HANDLE
}
"""https://observe.microsoft.com/en-us/windows/win32/perfctrs/pdh-error-codes"""


class PdhReader:
    """Reads GPUs through `pdh`, which is pywin32's `win32pdh` module or one that acts like it.

    A GPU's utilisation is the sum over its engines and the processes that use them, capped at
    100. Task Manager shows the busiest engine alone
    (https://devblogs.microsoft.com/directx/gpus-in-the-task-manager/); the sum is never lower.

    A rate is what happened between two collections, so the query stays open from read to
    read, and the first read of a query has no value. English names work on a Windows in any
    language. The wildcard takes in processes as they come and go, and after an error the next
    read opens a new query.
    """

    backend = "pdh"

    def __init__(self, pdh: Any) -> None:
        self._pdh = pdh
        self._query: Any = None
        self._counter: Any = None
        self._indices: dict[str, int] = {}

    def read(self) -> tuple[Gpu, ...] | None:
        pdh = self._pdh
        try:
            if self._query is None:
                self._query = pdh.OpenQuery()
                self._counter = pdh.AddEnglishCounter(self._query, ENGINES)
                pdh.CollectQueryData(self._query)
                return None
            pdh.CollectQueryData(self._query)
            percentages = pdh.GetFormattedCounterArray(self._counter, pdh.PDH_FMT_DOUBLE)
        except pdh.error as error:
            self.close()
            status = error.winerror & 0xFFFFFFFF  # pywin32 hands it on as a signed number
            if status in UNSTEADY:
                return None
            reason = REASONS.get(status, "unknown")
            raise GpuUnavailable(reason, f"{error.funcname}: 0x{status:08X}") from error
        return self._gpus(percentages)

    def close(self) -> None:
        query, self._query = self._query, None
        if query is not None:
            with suppress(self._pdh.error):
                self._pdh.CloseQuery(query)

    def _gpus(self, percentages: dict[str, float]) -> tuple[Gpu, ...] | None:
        sums: dict[str, float] = {}
        for instance, percent in sorted(percentages.items()):
            # pywin32 leaves the status of each value out, and a value without data is any number.
            if 0.0 <= percent <= 100.0:
                found = ADAPTER.search(instance)
                adapter = found.group() if found else instance
                sums[adapter] = sums.get(adapter, 0.0) + percent
        if percentages and not sums:
            return None
        return tuple(
            Gpu(
                # In the order in which they were first seen: an idle GPU must not renumber others.
                index=self._indices.setdefault(adapter, len(self._indices)),
                uuid=adapter,
                utilization=min(total, 100.0),
            )
            for adapter, total in sums.items()
        )
