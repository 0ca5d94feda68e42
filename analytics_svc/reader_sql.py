"""What the reader itself says to the database, around each question."""

from sqlalchemy import text

# Said before each question in the same message, which is one transaction: afterwards the settings are what they were.
# `now()` is the beginning of the transaction, hence before both snapshots. No pipeline: in one the driver goes through
# the event loop twice as often.
PREAMBLE = text("""
SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT beat_at FROM heartbeat) ELSE now() END AS as_of,
       set_config('statement_timeout', :timeout_ms, true) AS timeout_ms,
       set_config('plan_cache_mode', :plans, true) AS plans
""")

IS_PREPARED = "SELECT FROM pg_prepared_statements WHERE name = %s"
