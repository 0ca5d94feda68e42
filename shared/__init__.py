"""What both services stand on: serving, errors and their status codes, configuration, logs, time, the schema."""

import os

# gRPC's core writes a line of its own, no JSON, for each failed handshake: whoever reaches the port fills a disk. What
# goes wrong in it reaches us as exceptions and statuses. It reads this when it is imported, so this comes before: each
# package that has an entry point imports us first.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
