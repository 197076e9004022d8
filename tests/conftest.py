from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

SHARED: Final = {
    "test_compose.py": "engine",
    "test_fleet.py": "engine",
    "test_stack.py": "engine",
    "test_finding_servers.py": "usual ports",
    "test_joining.py": "usual ports",
    "test_joining_under_load.py": "usual ports",
}
"""What files of tests share that there is once on a machine."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class _ByFile(LoadScopeScheduling):
    """Has the tests of a file run in one process, and those of files that share something."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return SHARED.get(file.rpartition("/")[2], file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByFile(config, log)
