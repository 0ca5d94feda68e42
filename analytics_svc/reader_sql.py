"""What goes with each question to the database; `reader` asks."""

from sqlalchemy import text

# Runs before each question in the same message, which is one transaction: its end undoes the settings. `now()` is its
# start, hence before the snapshot, which the two have in common: the question finds the days as `retention` says. Not
# in a pipeline: the driver would take twice as many turns of the event loop.
PREAMBLE = text("""
SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT beat_at FROM heartbeat) ELSE now() END AS as_of,
       floor_day, sealed_before,
       set_config('statement_timeout', :timeout_ms, true) AS timeout_ms,
       set_config('plan_cache_mode', :plans, true) AS plans
FROM retention
""")

IS_PREPARED = "SELECT FROM pg_prepared_statements WHERE name = %s"
