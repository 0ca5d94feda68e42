"""What is taken out of the evidence, part by part, while more of it comes."""

from ingestion_svc.clock_evidence import DeviceClocks
from ingestion_svc.readings import MeterRow


def meter_rows(ts_us: int, *meter_ids: str) -> list[MeterRow]:
    return [MeterRow(meter_id, ts_us, 1.0, None) for meter_id in meter_ids]


def test_what_comes_between_two_parts_is_told_once() -> None:
    clocks = DeviceClocks("")
    clocks.stored(meter_rows(10, "a", "b", "c"), 15)
    clocks.stored(meter_rows(5, "a", "c"), 16)
    clocks.count(clocks.future, ["ghost"])
    parts = clocks.take(2)

    assert next(parts) == [("a", 10, 5, 1, 0, 0), ("b", 10, 5, 0, 0, 0)]
    clocks.stored(meter_rows(20, "a", "c"), 22)
    assert list(parts) == [[("c", 20, 2, 1, 0, 0)], [("ghost", None, None, 0, 1, 0)]]
    assert list(clocks.take(2)) == [[("a", 20, 2, 0, 0, 0)]]
    assert not clocks


def test_devices_that_never_stop_sending_do_not_keep_a_round_from_its_end() -> None:
    clocks = DeviceClocks("")
    clocks.stored(meter_rows(1, "a", "b"), 1)
    told = 0
    for at, part in enumerate(clocks.take(1)):
        told += len(part)
        assert told <= 2
        clocks.stored(meter_rows(2 + at, "a", "b", f"new{at}"), 2 + at)

    assert told == 2
