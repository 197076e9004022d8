"""A stand-in for pywin32's `win32pdh`: the query that is collected, and what it holds."""

ENGINES = r"\GPU Engine(*)\Utilization Percentage"


class PdhError(Exception):
    """What pywin32 raises: a signed number, the function's name, a text."""

    def __init__(self, status: int, funcname: str) -> None:
        signed = status - (1 << 32) if status >= 1 << 31 else status
        super().__init__(signed, funcname, "No error message is available")
        self.winerror = signed
        self.funcname = funcname


class FakePdh:
    """The module. `processes` is what the next collection sees; `fails` what it fails with."""

    PDH_FMT_DOUBLE = 512
    error = PdhError

    def __init__(self, processes: dict[str, float] | None = None) -> None:
        self.processes = processes or {}
        self.fails: dict[str, int] = {}
        self.queries: dict[int, int] = {}  # open queries, and how often each was collected
        self.opened = 0

    def OpenQuery(self) -> int:
        self._check("OpenQuery")
        self.opened += 1
        self.queries[self.opened] = 0
        return self.opened

    def AddEnglishCounter(self, query: int, path: str) -> int:
        self._check("AddEnglishCounter")
        assert path == ENGINES
        return query

    def CollectQueryData(self, query: int) -> None:
        self._check("CollectQueryData")
        self.queries[query] += 1

    def GetFormattedCounterArray(self, counter: int, form: int) -> dict[str, float]:
        self._check("GetFormattedCounterArray")
        assert form == self.PDH_FMT_DOUBLE
        if self.queries[counter] < 2:  # a rate needs two collections
            raise PdhError(0xC0000BC6, "PdhGetFormattedCounterArray")
        return dict(self.processes)

    def CloseQuery(self, query: int) -> None:
        del self.queries[query]

    def _check(self, function: str) -> None:
        if function in self.fails:
            raise PdhError(self.fails[function], f"Pdh{function}")
