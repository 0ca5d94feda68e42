"""The reader's own statements, which run before each question."""

from sqlalchemy import text

# Runs before each question in the same message, which is one transaction: its end undoes the settings. `now()` is its
# start, hence before both snapshots. Not in a pipeline: the driver would take twice as many turns of the event loop.
PREAMBLE = text("""
SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT beat_at FROM heartbeat) ELSE now() END AS as_of,
       set_config('statement_timeout', :timeout_ms, true) AS timeout_ms,
       set_config('plan_cache_mode', :plans, true) AS plans
""")

IS_PREPARED = "SELECT FROM pg_prepared_statements WHERE name = %s"
