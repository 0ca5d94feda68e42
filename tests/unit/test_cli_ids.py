"""Whatever an id consists of, commands print and draw it as it is."""

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import grpc
import pytest
from energyfleet.v1 import analytics_service_pb2 as wire

from fleetcli.client.channel import service_errors
from fleetcli.client.errors import ServiceError
from fleetcli.commands import ask, devices, fleet, meters
from fleetcli.commands.console import note, out, say
from fleetcli.commands.plot import draw
from shared.timestamps import US_PER_HOUR, proto_from_us
from tests.builders import NOW_US, UNUSUAL_IDS

WINDOW = wire.TimeWindow(start=proto_from_us(NOW_US - US_PER_HOUR), end=proto_from_us(NOW_US))


@pytest.mark.parametrize("device_id", UNUSUAL_IDS)
def test_lines_and_tables_have_the_id_as_it_is(device_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(device_id)
    note(device_id)
    assert capsys.readouterr() == (f"{device_id}\n", f"{device_id}\n")
    ask._show_performance(wire.GetVehiclePerformanceResponse(vehicle_id=device_id, window=WINDOW))
    ask._show_status("meter", device_id, wire.GetMeterStatusResponse(meter_id=device_id), ())
    assert {device_id, f"meter {device_id}"} <= {line.rstrip() for line in capsys.readouterr().out.splitlines()}
    vehicles = [wire.VehiclePerformance(vehicle_id=device_id, verdict=wire.VERDICT_OK)]
    answer = wire.ListVehiclePerformanceResponse(vehicles=vehicles, window=WINDOW)
    out.print(fleet._table(answer, [wire.GetPerformanceSeriesResponse()], "title"))
    assert f"│ {device_id} " in capsys.readouterr().out
    meters._show(wire.ListMeterPerformanceResponse(meters=[wire.MeterPerformance(meter_id=device_id)], window=WINDOW))
    assert f"│ {device_id} " in capsys.readouterr().out
    devices._show(wire.ListDevicesResponse(devices=[wire.ListedDevice(vehicle_id=device_id)]))
    assert f"│ vehicle {device_id} " in capsys.readouterr().out


def test_csv_has_the_ids_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    vehicles = [wire.VehiclePerformance(vehicle_id=each, verdict=wire.VERDICT_OK) for each in UNUSUAL_IDS]
    fleet._print_csv(wire.ListVehiclePerformanceResponse(vehicles=vehicles, window=WINDOW))
    rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert [row["vehicle_id"] for row in rows] == [*UNUSUAL_IDS]
    by_meter = [
        wire.MeterPerformance(meter_id=each, vehicle_ids=[each], shared_with=["a  b", each]) for each in UNUSUAL_IDS
    ]
    meters._print_csv(wire.ListMeterPerformanceResponse(meters=by_meter, window=WINDOW))
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["meter_id"] for row in found] == [*UNUSUAL_IDS]
    assert [json.loads(row["vehicle_ids"]) for row in found] == [[each] for each in UNUSUAL_IDS]
    assert [json.loads(row["shared_with"]) for row in found] == [["a  b", each] for each in UNUSUAL_IDS]
    devices._print_csv(wire.ListDevicesResponse(devices=[wire.ListedDevice(meter_id=each) for each in UNUSUAL_IDS]))
    assert [row["id"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == [*UNUSUAL_IDS]


@pytest.mark.parametrize("device_id", ["$x^2$", "$(x)", "back\\slash", "<b>&amp;</b>", "--help", "a  b"])
def test_a_picture_is_titled_with_the_id_as_it_is(device_id: str, tmp_path: Path) -> None:
    from matplotlib import rc_context

    series = wire.GetPerformanceSeriesResponse(
        vehicle_id=device_id, window=WINDOW, time_zone="UTC", buckets=[wire.PerformanceBucket(window=WINDOW)]
    )
    with rc_context({"svg.fonttype": "none"}):
        draw(series, tmp_path / "it.svg")
    texts = ["".join(each.itertext()) for each in ElementTree.parse(tmp_path / "it.svg").iter() if each.text]
    assert f"{device_id}, 2026-02-09 23:30 to 2026-02-10 00:30 (UTC)" in texts


@pytest.mark.parametrize("device_id", UNUSUAL_IDS)
def test_what_a_service_says_of_an_id_is_told_as_it_is(device_id: str) -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), f"{device_id} is unknown", None
    )
    with pytest.raises(ServiceError) as raised, service_errors("host:1"):
        raise error
    assert str(raised.value) == f"host:1 answered NOT_FOUND: {device_id} is unknown"
