"""Processor time and memory of processes, with their children."""

import psutil


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time, user and system, that a process and all its children, ended ones too, have taken.

    Read from /proc in ticks of 10 ms: good for differences over a second and more.
    """
    process = psutil.Process(pid)
    own = process.cpu_times()
    total: float = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:  # ended since: its parent's `children_*` will have it at the next look
            continue
        total += times.user + times.system
    return total


def memory_bytes_each(pid: int) -> list[int]:
    """Resident memory of a process and of each of its children that is there; empty where it has ended."""
    found = []
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            found.append(each.memory_info().rss)
    except psutil.NoSuchProcess:
        pass
    return found


def connected_children(pid: int, port: int) -> list[int]:
    """The ids of a process's children that serve a connection at a port."""
    found = []
    for child in psutil.Process(pid).children():
        try:
            connections = child.net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        if any(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in connections):
            found.append(child.pid)
    return found
