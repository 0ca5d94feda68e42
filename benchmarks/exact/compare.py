"""Holds what is stored, and what analytics answers, against the model; every difference is told in a line."""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any, LiteralString

import grpc
import psycopg
from energyfleet.v1 import analytics_service_pb2 as wire
from energyfleet.v1.analytics_service_pb2_grpc import AnalyticsServiceStub

from benchmarks.exact.fleet import Values
from benchmarks.exact.model import Model, Performance
from benchmarks.readings import meter_id, vehicle_id
from shared.timestamps import iso_from_us, proto_from_us

RELATIVE = 1e-9
"""What the order of additions may change of a sum of doubles."""

StoredRow = tuple[Any, ...]
"""Device id, time in microseconds, values."""

# The rows of a table with their device's id and their time in whole microseconds, device by device.
_METER_HISTORY: LiteralString = """
SELECT meter_id, CAST(extract(epoch FROM ts) * 1000000 AS bigint), kwh_consumed_ac, voltage
FROM meter_telemetry_history JOIN meters USING (meter_key) ORDER BY meter_key
"""
_VEHICLE_HISTORY: LiteralString = """
SELECT vehicle_id, CAST(extract(epoch FROM ts) * 1000000 AS bigint), kwh_delivered_dc, soc, battery_temp
FROM vehicle_telemetry_history JOIN vehicles USING (vehicle_key) ORDER BY vehicle_key
"""
_METER_STATUS: LiteralString = """
SELECT meter_id, CAST(extract(epoch FROM ts) * 1000000 AS bigint), kwh_consumed_ac, voltage
FROM meter_current_status JOIN meters USING (meter_key) ORDER BY meter_key
"""
_VEHICLE_STATUS: LiteralString = """
SELECT vehicle_id, CAST(extract(epoch FROM ts) * 1000000 AS bigint), kwh_delivered_dc, soc, battery_temp
FROM vehicle_current_status JOIN vehicles USING (vehicle_key) ORDER BY vehicle_key
"""
_METER_HOURS: LiteralString = """
SELECT meter_id, CAST(extract(epoch FROM hour_start) * 1000000 AS bigint), kwh_consumed_ac, kwh_returned_ac, readings
FROM meter_energy_hourly JOIN meters USING (meter_key) ORDER BY meter_key
"""
_VEHICLE_HOURS: LiteralString = """
SELECT vehicle_id, CAST(extract(epoch FROM hour_start) * 1000000 AS bigint), kwh_delivered_dc, kwh_returned_dc,
       readings, battery_temp_sum, battery_temp_readings
FROM vehicle_energy_hourly JOIN vehicles USING (vehicle_key) ORDER BY vehicle_key
"""


@dataclass
class Compared:
    """How much was compared, and what differs."""

    rows: int
    answers: int
    differences: list[str]


def compare(url: str, address: str, model: Model, pairs: int, questions: Iterable[tuple[int, int, int]]) -> Compared:
    """Compares every row of history, current status and rollups, and an answer for each (vehicle, start, end)."""
    meters = {meter_id(pair): 2 * pair for pair in range(pairs)}
    vehicles = {vehicle_id(pair): 2 * pair + 1 for pair in range(pairs)}

    def history(device: int) -> Mapping[int, Values]:
        return model.history.get(device, {})

    compared = Compared(0, 0, [])
    with psycopg.connect(url) as connection:
        for name, devices, statement, expected in (
            ("history", meters, _METER_HISTORY, history),
            ("history", vehicles, _VEHICLE_HISTORY, history),
            ("current status", meters, _METER_STATUS, model.newest),
            ("current status", vehicles, _VEHICLE_STATUS, model.newest),
            ("rollup", meters, _METER_HOURS, model.hourly),
            ("rollup", vehicles, _VEHICLE_HOURS, model.hourly),
        ):
            with connection.cursor(name="rows") as cursor:
                cursor.itersize = 10_000
                cursor.execute(statement, binary=True)
                for rows, told in differences(name, cursor, devices, expected, same if name == "rollup" else identical):
                    compared.rows += rows
                    compared.differences += told
    answers = asyncio.run(_answers(address, model, list(questions)))
    compared.answers = len(answers)
    compared.differences += [told for each in answers for told in each]
    return compared


def differences(
    name: str,
    stored: Iterable[StoredRow],
    devices: Mapping[str, int],
    expected: Callable[[int], Mapping[int, Values]],
    equal: Callable[[Values | None, Values | None], bool],
) -> Iterator[tuple[int, list[str]]]:
    """For each device how many rows it has, and what is other than expected of it. `stored` comes device by device."""
    missing = dict(devices)
    for device_id, rows in groupby(stored, key=lambda row: row[0]):
        there = {row[1]: row[2:] for row in rows}
        wanted = expected(missing.pop(device_id)) if device_id in missing else {}
        yield len(there), _of_device(f"{name} of {device_id}", there, wanted, equal)
    for device_id, device in missing.items():
        yield 0, _of_device(f"{name} of {device_id}", {}, expected(device), equal)


def _of_device(
    name: str,
    there: Mapping[int, Values],
    wanted: Mapping[int, Values],
    equal: Callable[[Values | None, Values | None], bool],
) -> list[str]:
    if there == wanted:
        return []
    return [
        f"{name} at {iso_from_us(at)}: {there.get(at, 'nothing')} instead of {wanted.get(at, 'nothing')}"
        for at in sorted(there.keys() | wanted.keys())
        if not equal(there.get(at), wanted.get(at))
    ]


def identical(one: Values | None, other: Values | None) -> bool:
    """Exactly the same values."""
    return one == other


def same(one: Values | None, other: Values | None) -> bool:
    """The same counts, and sums that differ by no more than the order of their additions may."""
    if one is None or other is None:
        return one is other
    return all(map(_same, one, other))


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None or (isinstance(one, int) and isinstance(other, int)):
        return one == other
    return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=RELATIVE)


async def _answers(address: str, model: Model, questions: list[tuple[int, int, int]]) -> list[list[str]]:
    """What is wrong with the answer to each question, if anything."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = AnalyticsServiceStub(channel)

        async def ask(vehicle: int, start_us: int, end_us: int) -> list[str]:
            window = wire.TimeWindow(start=proto_from_us(start_us), end=proto_from_us(end_us))
            answer = await stub.GetVehiclePerformance(
                wire.GetVehiclePerformanceRequest(vehicle_id=vehicle_id(vehicle), window=window)
            )
            wanted = model.performance(vehicle, start_us, end_us)
            return [
                f"{each.name} of {vehicle_id(vehicle)} from {iso_from_us(start_us)} to {iso_from_us(end_us)}:"
                f" {answered} instead of {expected}"
                for each in fields(Performance)
                if not _same(answered := _answered(answer, each.name), expected := getattr(wanted, each.name))
            ]

        return [await ask(*question) for question in questions]


def _answered(answer: wire.GetVehiclePerformanceResponse, name: Any) -> float | None:
    if name.endswith("_readings"):
        return int(getattr(answer, name))
    if name.startswith("hours_"):
        return int(getattr(answer.evidence, name))
    return float(getattr(answer, name)) if answer.HasField(name) else None
