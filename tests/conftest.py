from typing import Final

import pytest

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests run in several processes, have those of a file run in one, one by one."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            group = SHARED.get(item.path.name, str(item.path))
            item.add_marker(pytest.mark.xdist_group(group))
