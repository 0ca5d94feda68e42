"""`GetVehiclePerformance` against a plain-Python model, over random histories, mappings and windows."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum
from typing import Any, cast

import psycopg
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_svc.__main__ import thresholds
from analytics_svc.servicer import AnalyticsServicer
from shared.config import AnalyticsSettings
from shared.db.embedded import EmbeddedServer
from shared.interceptor import Context
from shared.timestamps import US_PER_HOUR, proto_from_us
from tests.integration.test_analytics_queries import MIDNIGHT_US, MINUTE_US, Rows, asking

pytestmark = pytest.mark.one_server

METERS = 3

# Close to hours, midnights and each other, so that every edge is met: 40 hours, with a midnight in between.
_instants = st.builds(
    lambda hour, minute, us: MIDNIGHT_US - 20 * US_PER_HOUR + hour * US_PER_HOUR + minute * MINUTE_US + us,
    st.integers(18, 21) | st.integers(0, 40),  # so close together that much happens within an hour
    st.sampled_from([0, 0, 1, 30]),
    st.sampled_from([-1, 0, 0, 0, 1]),
)
_kwh = st.integers(-(10**6), 10**6).map(lambda wh: wh / 1_000)
_temperatures = st.none() | st.floats(-60, 150)


@dataclass(frozen=True)
class History:
    """What happened: readings by time, and which meters were mapped, several at a time, from when until when."""

    delivered: dict[int, tuple[float, float | None]]
    consumed: list[dict[int, float]]
    mappings: list[tuple[int, int, int | None]]
    window: tuple[int, int]


@st.composite
def histories(draw: st.DrawFn) -> History:
    mappings: list[tuple[int, int, int | None]] = []
    for meter in range(METERS):
        cuts = sorted(draw(st.sets(_instants, max_size=4)))
        spans: Iterator[tuple[int, int | None]] = zip(cuts, [*cuts[1:], None], strict=False)
        mappings += [(meter, start, end) for start, end in spans if draw(st.booleans())]
    start, end = sorted(draw(st.sets(_instants, min_size=2, max_size=2)))
    return History(
        delivered=draw(st.dictionaries(_instants, st.tuples(_kwh, _temperatures), max_size=20)),
        consumed=[draw(st.dictionaries(_instants, _kwh, max_size=15)) for _ in range(METERS)],
        mappings=mappings,
        window=(start, end),
    )


def reported(history: History) -> tuple[list[int], list[tuple[int, float]]]:
    """Within the window: when the vehicle reported; when its meters did while they fed it, and what they drew."""
    start, end = history.window
    return (
        [ts for ts in history.delivered if start < ts <= end],
        [
            (ts, kwh)
            for meter, since, until in history.mappings
            for ts, kwh in history.consumed[meter].items()
            if start < ts <= end and since < ts and (until is None or ts <= until)
        ],
    )


def expected(history: History, vehicle_id: str) -> wire.GetVehiclePerformanceResponse:
    """The numbers by the words of the contract, reading by reading; the verdict is left out."""
    start, end = history.window
    times, consumed = reported(history)
    delivered = {ts: history.delivered[ts] for ts in times}
    answer = wire.GetVehiclePerformanceResponse(
        vehicle_id=vehicle_id,
        window=wire.TimeWindow(start=proto_from_us(start), end=proto_from_us(end)),
        vehicle_readings=len(delivered),
        meter_readings=len(consumed),
    )
    if delivered:
        answer.kwh_delivered_dc = fsum(kwh for kwh, _ in delivered.values())
        answer.kwh_returned_dc = fsum(-kwh for kwh, _ in delivered.values() if kwh < 0)
        answer.kwh_delivered_dc_unmapped = fsum(
            kwh
            for ts, (kwh, _) in delivered.items()
            if not any(since < ts and (until is None or ts <= until) for _, since, until in history.mappings)
        )
    if consumed:
        answer.kwh_consumed_ac = fsum(kwh for _, kwh in consumed)
        answer.kwh_returned_ac = fsum(-kwh for _, kwh in consumed if kwh < 0)
    temperatures = [temperature for _, temperature in delivered.values() if temperature is not None]
    if temperatures:
        answer.average_battery_temp = fsum(temperatures) / len(temperatures)
    return answer


def insert(rows: Rows, history: History, vehicle_id: str) -> bool:
    """Puts the history into the tables; True if it has a mapping within the window."""
    vehicle = rows.vehicle(vehicle_id)
    meters = [rows.meter(f"{vehicle_id}.meter-{number}") for number in range(METERS)]
    rows.delivered(vehicle, *((ts, kwh, temperature) for ts, (kwh, temperature) in history.delivered.items()))
    for meter, readings in zip(meters, history.consumed, strict=True):
        rows.consumed(meter, *readings.items())
    for meter_number, since, until in history.mappings:
        rows.mapping(vehicle, meters[meter_number], since, until)
    start, end = history.window
    return any(since < end and (until is None or until > start) for _, since, until in history.mappings)


_numbers = itertools.count()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
async def test_performance_is_what_the_readings_say(postgres: EmbeddedServer, database: str, history: History) -> None:
    vehicle_id = f"car-{next(_numbers)}"
    with psycopg.connect(postgres.url(database), autocommit=True) as connection:
        mapped = insert(Rows(connection), history, vehicle_id)
    start, end = history.window
    request = wire.GetVehiclePerformanceRequest(
        vehicle_id=vehicle_id, window=wire.TimeWindow(start=proto_from_us(start), end=proto_from_us(end))
    )
    async with asking(postgres.url(database, role="energyfleet_analytics"), pool_size=1) as queries:
        servicer = AnalyticsServicer(queries, thresholds(AnalyticsSettings()), US_PER_HOUR, lambda: 0)
        answer = await servicer.GetVehiclePerformance(request, cast(Context, None))

    model = expected(history, vehicle_id)
    energies: tuple[Any, ...] = ("kwh_delivered_dc", "kwh_consumed_ac", "kwh_returned_dc", "kwh_returned_ac")
    for name in (*energies, "kwh_delivered_dc_unmapped", "average_battery_temp"):
        assert answer.HasField(name) == model.HasField(name), name
        assert getattr(answer, name) == pytest.approx(getattr(model, name), rel=1e-9, abs=1e-9), name
    for name in ("vehicle_id", "window", "vehicle_readings", "meter_readings"):
        assert getattr(answer, name) == getattr(model, name), name
    # The hour (h, h + 1 h] of an instant, numbered by its end.
    times, consumed = reported(history)
    of_vehicle = {-(-ts // US_PER_HOUR) for ts in times}
    of_meter = {-(-ts // US_PER_HOUR) for ts, _ in consumed}
    assert answer.evidence.hours_either == len(of_vehicle | of_meter)
    assert answer.evidence.hours_both == len(of_vehicle & of_meter)
    assert (answer.verdict == wire.VERDICT_NO_METER) == (not mapped)
    has_ratio = model.HasField("kwh_delivered_dc") and model.kwh_consumed_ac > 1e-9 * model.kwh_returned_ac
    assert answer.HasField("efficiency_ratio") == has_ratio
    if has_ratio:
        assert answer.efficiency_ratio * answer.kwh_consumed_ac == pytest.approx(answer.kwh_delivered_dc, rel=1e-9)
