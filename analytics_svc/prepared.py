"""Statements that the server prepares once in a session, by SQL's own PREPARE and EXECUTE."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from sqlalchemy import TextClause, text
from sqlalchemy.dialects.postgresql.base import PGDialect

_PLANNED_EACH_TIME = "force_custom_plan"
_PLANNED_ONCE = "force_generic_plan"

_NUMBERED = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]  # it has no types


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement in two parts: PREPARE, run once in a session, and EXECUTE, run after the preamble of each question.

    Preparing saves parsing. It is done in SQL, each step a statement of its own, because the driver's own preparing
    loses track of what the server has prepared when a question is cancelled.
    """

    name: str
    prepare: str
    execute: str
    plans: str
    """A `plan_cache_mode`."""

    @classmethod
    def named(cls, name: str, statement: TextClause, planned_for: Mapping[str, date] | None = None) -> "Prepared":
        """The statement under a name that is unique in a session; for `planned_for` see `Reader.ask`."""
        for parameter, day in (planned_for or {}).items():
            statement = text(statement.text.replace(f":{parameter}", f"DATE '{day.isoformat()}'"))
        compiled = statement.compile(dialect=_NUMBERED)
        given = ", ".join(f"%({parameter})s" for parameter in compiled.positiontup or ())
        return cls(
            name,
            f"PREPARE {name} AS {compiled}",
            f"EXECUTE {name}" + (f"({given})" if given else ""),
            _PLANNED_EACH_TIME if planned_for is None else _PLANNED_ONCE,
        )
