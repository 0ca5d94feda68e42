"""How many files the process may have open; every connection is one."""

import resource

import structlog

_log = structlog.get_logger()

FILES_RESERVED = 256
"""For what is no connection of a client: the database's, the metrics', the log, gRPC's own, libraries."""

FILES_MAX = 1 << 20
"""What is raised to where there is no hard limit; Linux allows a process no more unless told otherwise."""


def raise_file_limit(needed: int) -> int:
    """Raises the soft limit of open files to the hard one, and returns it.

    A login shell and a bare service manager give a process 1,024, which a thousand idle connections use up: whoever
    comes then, and the database's health check, is locked out. Logs where the hard limit, too, is less than `needed`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < needed:
        _log.warning("file_limit_low", open_files_max=most, needed=needed)
    return most
