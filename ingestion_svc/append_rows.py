"""Readings that are all newer than what is known of their devices, as two binary COPYs in the format of `copy_rows`.

The first goes straight into history. The second has a row for each device and hour: what the hour's rollup grows by,
then the newest reading of that hour, in the same bytes as in the first.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from struct import Struct
from typing import TypeVar

from ingestion_svc.copy_rows import EPOCH_US, HEADER, NULL, TRAILER
from ingestion_svc.decode import MeterRow, VehicleRow
from shared.timestamps import US_PER_HOUR

# device key, ts, energy; then the measurements that may be absent
_METER_VOLTAGE = Struct(">hiiiqidid").pack
_METER = Struct(">hiiiqidi").pack
_VEHICLE_SOC_TEMP = Struct(">hiiiqididid").pack
_VEHICLE_SOC = Struct(">hiiiqididi").pack
_VEHICLE_TEMP = Struct(">hiiiqidiid").pack
_VEHICLE = Struct(">hiiiqidii").pack

# hour_start, energy, readings; of vehicles then the sum and the count of the temperatures
_METER_HOUR = Struct(">hiqidii").pack
_VEHICLE_HOUR = Struct(">hiqidiiidii").pack

_COLUMN_COUNT_BYTES = 2

_Row = TypeVar("_Row", MeterRow, VehicleRow)


def pack_meter_appends(devices: Sequence[tuple[int, Sequence[MeterRow]]]) -> tuple[bytes, bytes]:
    """COPY's bytes for (meter_key, ts, kwh_consumed_ac, voltage), and for (hour_start, hour_kwh, hour_readings) with
    the same columns of the newest reading after them.

    Takes keys, each with at least one row, and the rows of each in the order of their timestamps.
    """
    history, hours = [HEADER], [HEADER]
    add, add_hour = history.append, hours.append
    for key, hour_start_us, rows in _by_hour(devices):
        hour_kwh = 0.0
        for _, ts_us, kwh, voltage in rows:
            ts = ts_us - EPOCH_US
            if voltage is None:
                packed = _METER(4, 4, key, 8, ts, 8, kwh, NULL)
            else:
                packed = _METER_VOLTAGE(4, 4, key, 8, ts, 8, kwh, 8, voltage)
            add(packed)
            hour_kwh += kwh
        add_hour(_METER_HOUR(7, 8, hour_start_us - EPOCH_US, 8, hour_kwh, 4, len(rows)))
        add_hour(packed[_COLUMN_COUNT_BYTES:])
    add(TRAILER)
    add_hour(TRAILER)
    return b"".join(history), b"".join(hours)


def pack_vehicle_appends(devices: Sequence[tuple[int, Sequence[VehicleRow]]]) -> tuple[bytes, bytes]:
    """COPY's bytes for (vehicle_key, ts, kwh_delivered_dc, soc, battery_temp), and for (hour_start, hour_kwh,
    hour_readings, hour_temp_sum, hour_temp_readings) with the same columns of the newest reading after them.

    Takes what `pack_meter_appends` takes.
    """
    history, hours = [HEADER], [HEADER]
    add, add_hour = history.append, hours.append
    for key, hour_start_us, rows in _by_hour(devices):
        hour_kwh, temp_sum, temp_readings = 0.0, 0.0, 0
        for _, ts_us, kwh, soc, temp in rows:
            ts = ts_us - EPOCH_US
            if soc is not None and temp is not None:
                packed = _VEHICLE_SOC_TEMP(5, 4, key, 8, ts, 8, kwh, 8, soc, 8, temp)
            elif soc is not None:
                packed = _VEHICLE_SOC(5, 4, key, 8, ts, 8, kwh, 8, soc, NULL)
            elif temp is not None:
                packed = _VEHICLE_TEMP(5, 4, key, 8, ts, 8, kwh, NULL, 8, temp)
            else:
                packed = _VEHICLE(5, 4, key, 8, ts, 8, kwh, NULL, NULL)
            add(packed)
            hour_kwh += kwh
            if temp is not None:
                temp_sum += temp
                temp_readings += 1
        start = hour_start_us - EPOCH_US
        add_hour(_VEHICLE_HOUR(10, 8, start, 8, hour_kwh, 4, len(rows), 8, temp_sum, 4, temp_readings))
        add_hour(packed[_COLUMN_COUNT_BYTES:])
    add(TRAILER)
    add_hour(TRAILER)
    return b"".join(history), b"".join(hours)


def _by_hour(devices: Sequence[tuple[int, Sequence[_Row]]]) -> Iterator[tuple[int, int, Sequence[_Row]]]:
    """Each device's rows by the hour `(h, h + 1 h]`: key, h in microseconds, rows."""
    for key, rows in devices:
        first_us = _hour_start_us(rows[0])
        if rows[-1][1] <= first_us + US_PER_HOUR:  # nearly always
            yield key, first_us, rows
        else:
            for hour_start_us, of_hour in groupby(rows, _hour_start_us):
                yield key, hour_start_us, list(of_hour)


def _hour_start_us(row: MeterRow | VehicleRow) -> int:
    return (row[1] - 1) // US_PER_HOUR * US_PER_HOUR
