"""What the benchmarks send: never twice the same, never from the future, and the same rows on both ways."""

import struct
from itertools import pairwise

import pytest
from energyfleet.v1.ingestion_service_pb2 import StreamTelemetryRequest

from benchmarks.readings import INTERVAL_US, Span, consecutive_spans, copy_rows, messages
from ingestion_svc.decode import decode
from ingestion_svc.readings import Decoded, TimeBounds
from shared.timestamps import US_PER_DAY, US_PER_SECOND

NOW_US = 1_770_000_000 * US_PER_SECOND // INTERVAL_US * INTERVAL_US
POSTGRES_EPOCH_US = 946_684_800 * US_PER_SECOND


def decoded(span: Span, per_message: int) -> Decoded:
    readings = [
        reading
        for message in messages(span, per_message)
        for reading in StreamTelemetryRequest.FromString(message).readings
    ]
    return decode(readings, 0, TimeBounds(NOW_US - US_PER_DAY, NOW_US))


def test_a_span_is_taken_without_a_rejection() -> None:
    rows = decoded(Span(NOW_US - INTERVAL_US, 40, pairs=10), 7)
    assert rows.rejected == 0
    assert (len(rows.meters), len(rows.vehicles)) == (20, 20)


def test_registers_rise_by_some_energy_from_reading_to_reading() -> None:
    rows = decoded(Span(NOW_US - 2 * INTERVAL_US, 60, pairs=10, registers=True), 7)
    assert rows.rejected == 0
    for of_side in (rows.meters, rows.vehicles):
        shown = [row.register_kwh or 0.0 for row in of_side if row[0].endswith("-00003")]
        assert [row[2] for row in of_side] == [None] * 30
        assert [later - former for former, later in pairwise(shown)] == pytest.approx([0.115] * 2)


def test_every_message_but_the_last_has_so_many_readings() -> None:
    sizes = [
        len(StreamTelemetryRequest.FromString(message).readings) for message in messages(Span(NOW_US, 10, pairs=5), 4)
    ]
    assert sizes == [4, 4, 2]


def test_no_reading_of_consecutive_spans_is_repeated() -> None:
    spans = consecutive_spans([20, 7, 100, 31], NOW_US, pairs=10)
    places = [place for span in spans for place in span.readings()]
    assert len(set(places)) == len(places) == 158


def test_consecutive_spans_end_at_the_given_instant() -> None:
    spans = consecutive_spans([20, 7, 31], NOW_US, pairs=10)
    assert max(ts_us for span in spans for _, ts_us in span.readings()) == NOW_US
    assert all(former.first_us + former.instants * INTERVAL_US == later.first_us for former, later in pairwise(spans))


def test_copy_has_the_rows_that_the_service_is_sent() -> None:
    span = Span(NOW_US - INTERVAL_US, 30, pairs=10)
    rows = decoded(span, 10)
    meters, vehicles = copy_rows(span)
    assert meters[19:-2] == b"".join(
        struct.pack(">hiiiqidid", 4, 4, int(row.meter_id[6:]) + 1, 8, row.ts_us - POSTGRES_EPOCH_US,
                    8, row.kwh_consumed_ac, 8, row.voltage)
        for row in rows.meters
    )  # fmt: skip
    assert vehicles[19:-2] == b"".join(
        struct.pack(">hiiiqididid", 5, 4, int(row.vehicle_id[8:]) + 1, 8, row.ts_us - POSTGRES_EPOCH_US,
                    8, row.kwh_delivered_dc, 8, row.soc, 8, row.battery_temp)
        for row in rows.vehicles
    )  # fmt: skip
