"""A service that waits for its peers a second, in a process of its own: `python -m tests.acceptance.impatient MODULE`.

Everything else is as it is; limits in seconds would cost a test half a minute each.
"""

import os
import resource
import runpy
import sys

import ingestion_svc.admission
import shared.delivery
import shared.serve

shared.delivery.ANSWER_MAX_WAIT_S = 1.0
shared.delivery.STATUS_MAX_WAIT_S = 0.5
shared.delivery.TRIM_AFTER_S = 0.5
ingestion_svc.admission.FIRST_REQUEST_WITHIN_S = 1.0
ingestion_svc.admission.MEMORY_BACK_AFTER_S = 0.5
SHORT_MS = {
    "grpc.max_connection_idle_ms": 1_000,
    "grpc.http2.settings_timeout": 1_000,
    "grpc.server_handshake_timeout_ms": 1_000,
}
shared.serve.OPTIONS = tuple((name, SHORT_MS.get(name, value)) for name, value in shared.serve.OPTIONS)

if __name__ == "__main__":
    if open_files := os.environ.get("TEST_OPEN_FILES"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(open_files), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
