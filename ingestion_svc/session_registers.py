"""Finds devices that send their session's register as each interval's energy, and has none of it count."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import numpy as np

from ingestion_svc.copy_format import Floats, Keys, Positions, Times
from ingestion_svc.count_sessions_sql import COUNT_SESSIONS, FIND_RISES
from ingestion_svc.sealed_days import Execute, SealedDays
from shared.db.session_registers_sql import REACH_DAYS
from shared.timestamps import TIMESTAMP_MAX_US, TIMESTAMP_MIN_US, US_PER_DAY, datetime_from_us

NEAR_US = (1 + REACH_DAYS) * US_PER_DAY
"""How far from changed readings others may matter, before more are looked at: those within a day before are judged
anew."""

LOOKED_AT = ((NEAR_US, 32), (8 * NEAR_US, 1_000), (64 * NEAR_US, 32_000), (None, None))
"""How far from changed readings others are looked at, and how many of those that follow: few, as long as one of them
shows that the others stay what they are; then more, and in the end all. The days that are looked at are opened."""

EVER = {"first": datetime.min.replace(tzinfo=UTC), "last": datetime.max.replace(tzinfo=UTC)}
"""Bounds of readings that leave none out."""


class Suspects(NamedTuple):
    """Readings near which energies may rise: where they are in their batch, and their devices' keys and limits."""

    positions: Positions
    keys: Keys
    ts_us: Times
    limits_kw: Floats

    def at(self, places: Positions) -> "Suspects":
        return Suspects(self.positions[places], self.keys[places], self.ts_us[places], self.limits_kw[places])

    def and_others(self, others: "Suspects") -> "Suspects":
        return Suspects(
            np.concatenate((self.positions, others.positions)),
            np.concatenate((self.keys, others.keys)),
            np.concatenate((self.ts_us, others.ts_us)),
            np.concatenate((self.limits_kw, others.limits_kw)),
        )


NO_SUSPECTS = Suspects(np.empty(0, np.intp), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0))


@dataclass(slots=True)
class Sessions:
    """What was found out about suspects."""

    anew: set[tuple[int, datetime]] = field(default_factory=set)
    """The hours that have to be added up anew, after the device's key."""
    doubted: set[tuple[int, datetime]] = field(default_factory=set)
    """Keys and timestamps of the readings that were found to be a session's registers."""


async def count_sessions(
    execute: Execute, sealed: SealedDays, device: str, suspects: Suspects, min_interval_s: float
) -> Sessions:
    """Makes count what should near the suspects, which are stored; their devices are locked."""
    sessions = Sessions()
    for spans in _spans(suspects):
        parameters = {name: values.tolist() for name, values in spans.items()}
        found = [key for (key,) in await execute(FIND_RISES[device], parameters | _bounds(spans, NEAR_US))]
        if not found:
            continue
        rising = np.isin(spans["keys"], found)
        its = {name: values[rising] for name, values in spans.items()}
        parameters = {name: values.tolist() for name, values in its.items()} | {"min_interval_s": min_interval_s}
        changed: Sequence[Sequence[Any]] = ()
        for near_us, following in LOOKED_AT:
            days = _days(its["firsts_us"], near_us, -1), _days(its["lasts_us"], near_us)
            await sealed.open(parameters["keys"], *days, to_insert=True)
            asked = parameters | _bounds(its, near_us) | {"following": following}
            changed = await execute(COUNT_SESSIONS[device], asked)
            if all(key is not None for key, *_ in changed):
                break
        sessions.anew |= {(key, hour) for key, _, hour, _ in changed}
        sessions.doubted |= {(key, ts) for key, ts, _, in_session in changed if in_session}
    return sessions


def _bounds(spans: Mapping[str, Any], near_us: int | None) -> dict[str, Any]:
    """Of readings no further than this from any of the spans; None: of all."""
    if near_us is None:
        return EVER | {"bounded": False}
    return {
        "first": datetime_from_us(max(int(spans["firsts_us"].min()) - near_us, TIMESTAMP_MIN_US)),
        "last": datetime_from_us(min(int(spans["lasts_us"].max()) + near_us, TIMESTAMP_MAX_US)),
        "bounded": True,
    }


def _days(times_us: Times, near_us: int | None, direction: int = 1) -> list[date]:
    """The days so long after some times, or before them."""
    if near_us is None:
        return [EVER["last" if direction > 0 else "first"].date()] * len(times_us)
    moved_us = np.clip(times_us + direction * near_us, TIMESTAMP_MIN_US, TIMESTAMP_MAX_US)
    return [datetime_from_us(ts_us).date() for ts_us in moved_us.tolist()]


def _spans(suspects: Suspects) -> Iterator[dict[str, Any]]:
    """From the first to the last of each device's suspects that lie within a day of each other, one of each device at
    a time, in the order of time."""
    _, keys, ts_us, limits_kw = suspects.at(np.lexsort((suspects.ts_us, suspects.keys)))
    of_another = np.diff(keys, prepend=keys[:1] - 1) != 0
    begins = np.flatnonzero(of_another | (np.diff(ts_us, prepend=ts_us[:1]) > US_PER_DAY))
    ends = np.append(begins[1:], len(keys)) - 1
    firsts = np.flatnonzero(of_another[begins])
    number = np.arange(len(begins)) - np.repeat(firsts, np.diff(firsts, append=len(begins)))
    for of_each in range(number.max(initial=-1) + 1):
        at = number == of_each
        yield {
            "keys": keys[begins[at]],
            "firsts_us": ts_us[begins[at]],
            "lasts_us": ts_us[ends[at]],
            "limits_kw": limits_kw[begins[at]],
        }
