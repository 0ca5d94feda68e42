"""What verdicts say of a simulated year of which the truth is known: is an innocent accused, is a worn charger missed?

year -> devices -> visible -> check    what happened, what was reported of it, what an answer could know, what it said

No service runs, and no database: what was visible is put together as `analytics_svc.span_tables` has it, and judged by
the service's own functions. `tests/integration/test_benchmarks_verdicts.py` asks the database the same questions.
"""
