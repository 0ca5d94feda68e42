"""Answers how efficiently vehicles charge. A request passes these files, in this order:

    servicer -> parse -> queries -> reader -> performance -> answers

`servicer` has the rpcs, and `parse` turns their requests into `questions`. `queries` runs a statement of `queries_sql`
for each, in one round trip, through `reader`, which bounds its time and dates its result. What comes back are `totals`.
`performance` finds the verdict, and `answers` builds the messages.

A list of the fleet passes others:

    servicer -> parse -> fleet_queries -> hour_cache -> fleet_performance -> page_cache -> answers

`fleet_queries` runs the statements of `fleet_sql`, and fetches only the hours that `hour_cache` does not have.
`fleet_performance` finds, orders and adds up the verdicts, and `page_cache` keeps the result for later pages.

Beside either, what is normal for a vehicle comes from the 28 days before the window:

    baseline_queries -> baseline_cache -> baseline_tables -> baseline_charges -> baseline

`baseline_queries` runs the statements of `baseline_sql`, and reads only the days that `baseline_cache` does not have.
`baseline_charges` finds the charges in tables of hours, and `baseline` who has dropped.

A list by meter goes beside it, by the same judge:

    servicer -> parse -> meter_queries -> meter_tables -> meter_performance -> page_cache -> meter_answers

`meter_tables` adds up by meter what the vehicles took that each fed, and what can be compared of that. The list of
devices is `device_queries -> device_list -> page_cache -> device_answers`.

Charging sessions are found first, and each is then judged as a window:

    servicer -> parse -> session_queries -> sessions -> session_result -> page_cache -> session_answers

`session_queries` runs the statements of `sessions_sql`, and `sessions` finds the sessions. `session_result` has the
hours of each, which `performance` judges.

`readings_sql` says where statements find readings: in the tables of open days, or of sealed ones, too.

`buckets` cuts a series into hours or days, `series` adds up its hours, `freshness` says whether a device still reports,
and `replica` watches the replication lag.
"""

import shared as _shared  # noqa: F401  # before gRPC, whose log it silences
