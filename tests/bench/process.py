"""What a process and its children cost: CPU time and memory, from Linux's /proc."""

from pathlib import Path

PROC = Path("/proc")


def family(pid: int, proc: Path = PROC) -> list[int]:
    """List a process and all its descendants."""
    found = [pid]
    for member in found:
        for task in (proc / str(member) / "task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int, proc: Path = PROC) -> float:
    """Tell the time on a CPU of all threads, to the nanosecond (`schedstat`)."""
    total = 0
    for member in family(pid, proc):
        for task in (proc / str(member) / "task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def resident_bytes(pid: int, proc: Path = PROC) -> int:
    """Tell the memory that is in use, shared pages counted in shares (`Pss`)."""
    total = 0
    for member in family(pid, proc):
        for line in (proc / str(member) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
