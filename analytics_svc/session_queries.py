"""The questions about charging sessions: where they lie, then what vehicle and meters reported in each.

What is asked later is never less complete than what was asked before. The energies of all sessions of a vehicle, and of
what lies in none, come from one snapshot.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from analytics_svc.fleet_queries import window_ends
from analytics_svc.queries_sql import STATUSES
from analytics_svc.questions import Window
from analytics_svc.reader import QueryResult, Reader
from analytics_svc.session_result import ChargingSession, MeterSums, SessionResult, VehicleDetails
from analytics_svc.sessions import (
    OUTAGE_US,
    SILENCE_US,
    Charge,
    SessionRules,
    SessionSpan,
    SilenceEnded,
    Time,
    busy_times,
    find_sessions,
)
from analytics_svc.sessions_sql import CHARGES, METER_PARTS, METER_PIECES, SESSION_DETAILS, SESSION_SPANS, VEHICLE_PARTS
from analytics_svc.span_tables import DeviceHours, energy_of, hours_of_part, rows_by_part
from shared.db.device_kind import METER, VEHICLE, DeviceKind
from shared.errors import InvalidRequest, UnknownDevice, Violation
from shared.timestamps import TIMESTAMP_MIN_US, US_PER_HOUR, datetime_from_us, us_from_datetime, us_from_timedelta

SESSIONS_MAX = 1_000
"""In a window: more than 30 a day for a month. What is kept of each is some 10 KiB."""

_AT_ONCE = 16
"""Sessions that are unpacked before other calls get their turn: a few milliseconds."""

METER_VEHICLES_MAX = 50
"""That one meter fed within a window: each costs as much as a question about itself."""


class _Part(NamedTuple):
    """A device, and from when until when its readings tell of a vehicle."""

    kind: DeviceKind
    key: int
    since_us: int
    until_us: int


class SessionQueries:
    """May raise DatabaseUnavailable, within about the reader's timeout for each statement, DeadlinePassed,
    UnknownDevice, and InvalidRequest where a window has too many sessions."""

    def __init__(self, reader: Reader, rules: SessionRules) -> None:
        self._reader = reader
        self._rules = rules

    async def of_vehicle(self, window: Window, vehicle_id: str) -> QueryResult[SessionResult]:
        """The sessions of a vehicle."""
        answer = await self._reader.ask(VEHICLE_PARTS, self._looking(window) | {"vehicle_id": vehicle_id})
        if not answer.value:
            raise await self._unknown(VEHICLE, vehicle_id)
        parts = [
            _Part(
                VEHICLE if row.meter_key is None else METER,
                row.vehicle_key if row.meter_key is None else row.meter_key,
                us_from_datetime(row.since),
                us_from_datetime(row.until),
            )
            for row in answer.value
        ]
        busy_us = [us_from_datetime(hour) for row in answer.value for hour in row.hours]
        spans = find_sessions(window, *await self._charges(window, parts, busy_us), self._rules)
        _require_few(spans)
        similar_ids = next(row.similar_ids for row in answer.value if row.meter_key is None)
        result = await self._reported(window, vehicle_id, spans, similar_ids)
        return result.beside(answer)

    async def of_meter(self, window: Window, meter_id: str) -> QueryResult[SessionResult]:
        """The sessions of the vehicles that a meter fed, and its own while it was mapped to none."""
        answer = await self._reader.ask(METER_PARTS, self._looking(window) | {"meter_id": meter_id})
        if not answer.value:
            raise await self._unknown(METER, meter_id)
        own = next(row for row in answer.value if row.vehicle_id is None)
        mapped = [
            (row.vehicle_id, us_from_datetime(row.since), us_from_datetime(row.until))
            for row in answer.value
            if row.vehicle_id is not None
        ]
        fed = {vehicle_id: None for vehicle_id, _, until_us in mapped if until_us > window.start_us}
        if len(fed) > METER_VEHICLES_MAX:
            told = f"the meter fed {len(fed):,} vehicles in it; at most {METER_VEHICLES_MAX}: ask for less"
            raise InvalidRequest([Violation("window", told)])
        found, within, answers = [], [], [answer.replace(None)]
        for vehicle_id in fed:
            its = await self.of_vehicle(window, vehicle_id)
            answers.append(its.replace(None))
            for session in its.value.sessions:
                common = _common(session.span, [each[1:] for each in mapped if each[0] == vehicle_id])
                if common:
                    found.append(session)
                    within += common
        alone = await self._alone(window, own, [each[1:] for each in mapped])
        _require_few([*found, *alone])
        result = await self._drawn(window, own.meter_key, meter_id, found, within, alone)
        return result.beside(*answers)

    async def _alone(self, window: Window, own: Any, mapped: Sequence[Time]) -> list[SessionSpan]:
        """The sessions of a meter while it was mapped to no vehicle; mapped times do not overlap, and are by time."""
        edges = [us_from_datetime(own.since), *(us for time in mapped for us in time), us_from_datetime(own.until)]
        parts = [
            _Part(METER, own.meter_key, since_us, until_us)
            for since_us, until_us in zip(edges[::2], edges[1::2], strict=True)
            if since_us < until_us and until_us > window.start_us
        ]
        busy_us = [us_from_datetime(hour) for hour in own.hours]
        charges, readings = await self._charges(window, parts, busy_us)
        found: list[SessionSpan] = []
        for part in parts:
            its = [each for each in charges if part.since_us < each.end_us <= part.until_us]
            after_silence = [each for each in readings if part.since_us < each.ts_us <= part.until_us]
            found += find_sessions(window, its, after_silence, self._rules)
        return found

    async def _charges(
        self, window: Window, parts: Sequence[_Part], busy_us: Sequence[int]
    ) -> tuple[list[Charge], list[SilenceEnded]]:
        """What devices tell of charging, in busy hours and those beside them."""
        of_vehicle, of_meters = await asyncio.gather(
            *(self._told(window, [part for part in parts if part.kind is kind], busy_us) for kind in (VEHICLE, METER))
        )
        told = [*of_vehicle, *of_meters]
        return [each for each in told if isinstance(each, Charge)], [
            each for each in told if isinstance(each, SilenceEnded)
        ]

    async def _told(
        self, window: Window, parts: Sequence[_Part], busy_us: Sequence[int]
    ) -> list[Charge | SilenceEnded]:
        """Likewise, of devices of one kind."""
        spans = [(part, time) for part in parts for time in busy_times(busy_us, part.since_us, part.until_us)]
        if not spans:
            return []
        kind = parts[0].kind
        answer = await self._reader.ask_of_days(
            CHARGES[kind],
            {
                "device_keys": [part.key for part, _ in spans],
                "sinces": [datetime_from_us(since_us) for _, (since_us, _) in spans],
                "untils": [datetime_from_us(until_us) for _, (_, until_us) in spans],
                "window_start": datetime_from_us(window.start_us),
                "outage": _interval(OUTAGE_US),
                "pause": _interval(self._rules.pause_us),
                "silence": _interval(SILENCE_US),
                "standby_kw": self._rules.standby_kw,
                "counted_h": self._rules.counted_h(takes=kind is VEHICLE),
            },
            self._looked_from_us(window) - OUTAGE_US,
            window.end_us,
        )
        return [_told_by(spans[row.span - 1][0], row) for row in answer.value]

    async def _reported(
        self, window: Window, vehicle_id: str, spans: Sequence[SessionSpan], similar_ids: Sequence[str]
    ) -> QueryResult[SessionResult]:
        """What a vehicle and its meters reported in sessions, and outside."""
        cuts = sorted({us for span in spans for us in (span.begin_us, span.end_us)})
        asked = {"vehicle_id": vehicle_id, **window_ends(window)}
        answer = await self._reader.ask_of_days(
            SESSION_SPANS,
            asked | {"cuts": [datetime_from_us(us) for us in cuts]},
            window.start_us - SILENCE_US,
            window.end_us,
        )
        meter_ids = {row.meter_key: row.meter_id for row in answer.value if row.meter_key is not None}
        windows = [Window(span.begin_us, span.end_us) for span in spans]
        within, left = rows_by_part(windows, answer.value)
        hours = []
        for part, rows in zip(windows, within, strict=True):
            hours.append(hours_of_part(window, part, rows))
            if len(hours) % _AT_ONCE == 0:
                await asyncio.sleep(0)
        dc = await _energy([row for row in left if row.meter_key is None])
        ac = await _energy([row for row in left if row.meter_key is not None])
        details = await self._details(window, vehicle_id, windows, similar_ids)
        sessions = [
            ChargingSession(vehicle_id, span, meter_ids, hours=its, details=more)
            for span, its, more in zip(spans, hours, details, strict=True)
        ]
        return answer.replace(SessionResult(window, sessions, dc, ac, as_of_us=answer.as_of_us))

    async def _details(
        self, window: Window, vehicle_id: str, windows: Sequence[Window], similar_ids: Sequence[str]
    ) -> list[VehicleDetails]:
        if not windows:
            return []
        answer = await self._reader.ask_of_days(
            SESSION_DETAILS,
            {
                "vehicle_id": vehicle_id,
                "sinces": [datetime_from_us(each.start_us) for each in windows],
                "untils": [datetime_from_us(each.end_us) for each in windows],
            },
            window.start_us,
            window.end_us,
        )
        return [
            VehicleDetails(
                row.soc_at_start, row.soc_at_end, row.vehicle_quality or {}, row.meter_quality or {}, similar_ids
            )
            for row in answer.value
        ]

    async def _drawn(
        self,
        window: Window,
        meter_key: int,
        meter_id: str,
        of_vehicles: Sequence[ChargingSession],
        within: Sequence[Time],
        alone: Sequence[SessionSpan],
    ) -> QueryResult[SessionResult]:
        """All sessions of a meter, and what it drew outside: its sessions alone, and the times within those of vehicles
        in which it fed them, do not overlap."""
        own = [(span.begin_us, span.end_us) for span in alone]
        edges = sorted({window.start_us, window.end_us, *(us for time in (*within, *own) for us in time)})
        answer = await self._reader.ask_of_days(
            METER_PIECES,
            {"meter_key": meter_key, "starts": [datetime_from_us(us) for us in edges[:-1]], **window_ends(window)},
            window.start_us - US_PER_HOUR,
            window.end_us,
        )
        told = ((us_from_datetime(row.since), DeviceHours.unpacked(row.hours).sums) for row in answer.value)
        pieces = {us: MeterSums(its.kwh, its.kwh_returned, its.readings) for us, its in told if its.readings}
        inside = {
            since_us for since_us, until_us in (*within, *own) for since_us in _pieces_of(edges, since_us, until_us)
        }
        outside = [sums for since_us, sums in pieces.items() if since_us not in inside]
        sessions = [*of_vehicles]
        for span in alone:
            sums = [pieces[us] for us in _pieces_of(edges, span.begin_us, span.end_us) if us in pieces]
            sessions.append(ChargingSession("", span, {meter_key: meter_id}, sums=_added(sums)))
        sessions.sort(key=lambda each: (each.span.begin_us, each.span.end_us, each.vehicle_id))
        kwh = sum(each.kwh for each in outside) if outside else None
        return answer.replace(SessionResult(window, sessions, None, kwh, as_of_us=answer.as_of_us))

    def _looked_from_us(self, window: Window) -> int:
        """From when on readings are looked at, of those that are kept."""
        earliest_us = max(window.kept_since_us or TIMESTAMP_MIN_US, TIMESTAMP_MIN_US + 2 * SILENCE_US)
        return max(self._rules.looked_from(window), earliest_us)

    def _looking(self, window: Window) -> dict[str, object]:
        looked_from_us = self._looked_from_us(window)
        least = {"least_vehicle_kwh": self._rules.least_kwh(takes=True)}
        least["least_meter_kwh"] = self._rules.least_kwh(takes=False)
        kept_since = datetime_from_us(TIMESTAMP_MIN_US if window.kept_since_us is None else window.kept_since_us)
        looking = {"looked_from": datetime_from_us(looked_from_us), "kept_since": kept_since}
        return least | looking | window_ends(window)

    async def _unknown(self, kind: DeviceKind, device_id: str) -> UnknownDevice:
        answer = await self._reader.ask(STATUSES[kind], {"ids": [device_id], "refusals_max": 0})
        return UnknownDevice(kind.name, device_id, answer.value[0].similar_ids)


async def _energy(rows: Sequence[Any]) -> float | None:
    """What rows of `reported` have in kWh, None where no reading came. Lets other calls run in between."""
    found: float | None = None
    for start in range(0, len(rows), _AT_ONCE):
        kwh = energy_of(rows[start : start + _AT_ONCE])
        if kwh is not None:
            found = kwh + (found or 0.0)
        await asyncio.sleep(0)
    return found


def _require_few(sessions: Sequence[object]) -> None:
    if len(sessions) > SESSIONS_MAX:
        raise InvalidRequest(
            [Violation("window", f"{len(sessions):,} sessions lie in it; at most {SESSIONS_MAX:,}: ask for less")]
        )


def _told_by(part: _Part, row: Any) -> Charge | SilenceEnded:
    """From a row of CHARGES."""
    device, takes, end_us = (part.kind.name, part.key), part.kind is VEHICLE, us_from_datetime(row.end_ts)
    before_us, earlier_us, next_us = (
        None if moment is None else us_from_datetime(moment) for moment in (row.begin_ts, row.earlier_ts, row.next_ts)
    )
    if row.kwh is None:
        assert before_us is not None
        highest_kw = row.highest_kw if takes else None
        return Charge(device, max(before_us, part.since_us), end_us, us_from_timedelta(row.longest), highest_kw)
    sides = row.before_kwh, next_us, row.next_kwh
    return SilenceEnded(device, takes, part.since_us, end_us, row.kwh, before_us, earlier_us, *sides)


def _common(span: SessionSpan, times: Sequence[Time]) -> list[Time]:
    """What a session has in common with some times."""
    common = [(max(span.begin_us, since_us), min(span.end_us, until_us)) for since_us, until_us in times]
    return [time for time in common if time[0] < time[1]]


def _pieces_of(edges: Sequence[int], since_us: int, until_us: int) -> Sequence[int]:
    """Where the pieces of a time begin, of all that lie between some edges."""
    return edges[bisect_left(edges, since_us) : bisect_left(edges, until_us)]


def _added(sums: Sequence[MeterSums]) -> MeterSums:
    return MeterSums(*(sum(column) for column in zip(*sums, strict=True))) if sums else MeterSums()


def _interval(us: int) -> timedelta:
    return timedelta(microseconds=us)
