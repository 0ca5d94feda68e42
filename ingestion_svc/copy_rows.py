"""Rows as PostgreSQL's binary COPY format: one precompiled `struct` a row, no datetime in between.

Format: PostgreSQL documentation, COPY, "Binary Format". A row is its column count, then for each column its length in
bytes and its big-endian value; NULL is the length -1. A timestamptz is microseconds since 2000-01-01 UTC. A
row's ordinal is its position.
"""

from collections.abc import Sequence
from struct import Struct

from ingestion_svc.decode import MeterRow, VehicleRow

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
NULL = -1
EPOCH_US = 946_684_800_000_000  # 2000-01-01T00:00:00Z

# ordinal, device key, ts, energy; then the measurements that may be absent
_METER_VOLTAGE = Struct(">hiiiiiqidid").pack
_METER = Struct(">hiiiiiqidi").pack
_VEHICLE_SOC_TEMP = Struct(">hiiiiiqididid").pack
_VEHICLE_SOC = Struct(">hiiiiiqididi").pack
_VEHICLE_TEMP = Struct(">hiiiiiqidiid").pack
_VEHICLE = Struct(">hiiiiiqidii").pack


def pack_meter_rows(rows: Sequence[MeterRow], keys: Sequence[int]) -> bytes:
    """COPY's bytes for (ordinal, meter_key, ts, kwh_consumed_ac, voltage)."""
    packed = [HEADER]
    add = packed.append
    for ordinal, ((_, ts_us, kwh, voltage), key) in enumerate(zip(rows, keys, strict=True)):
        ts = ts_us - EPOCH_US
        if voltage is None:
            add(_METER(5, 4, ordinal, 4, key, 8, ts, 8, kwh, NULL))
        else:
            add(_METER_VOLTAGE(5, 4, ordinal, 4, key, 8, ts, 8, kwh, 8, voltage))
    add(TRAILER)
    return b"".join(packed)


def pack_vehicle_rows(rows: Sequence[VehicleRow], keys: Sequence[int]) -> bytes:
    """COPY's bytes for (ordinal, vehicle_key, ts, kwh_delivered_dc, soc, battery_temp)."""
    packed = [HEADER]
    add = packed.append
    for ordinal, ((_, ts_us, kwh, soc, temp), key) in enumerate(zip(rows, keys, strict=True)):
        ts = ts_us - EPOCH_US
        if soc is not None and temp is not None:
            add(_VEHICLE_SOC_TEMP(6, 4, ordinal, 4, key, 8, ts, 8, kwh, 8, soc, 8, temp))
        elif soc is not None:
            add(_VEHICLE_SOC(6, 4, ordinal, 4, key, 8, ts, 8, kwh, 8, soc, NULL))
        elif temp is not None:
            add(_VEHICLE_TEMP(6, 4, ordinal, 4, key, 8, ts, 8, kwh, NULL, 8, temp))
        else:
            add(_VEHICLE(6, 4, ordinal, 4, key, 8, ts, 8, kwh, NULL, NULL))
    add(TRAILER)
    return b"".join(packed)
