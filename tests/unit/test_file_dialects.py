"""Files as people have them: however readings are written, they are read as the same readings, or refused clearly."""

import csv
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from energyfleet.v1.telemetry_pb2 import Telemetry
from hypothesis import given
from hypothesis import strategies as st

from fleetcli.commands.command_errors import BadInput
from fleetcli.commands.file_cells import Unit
from fleetcli.commands.file_columns import Dialect
from fleetcli.commands.file_formats import Format
from fleetcli.commands.recording import Recording
from shared.timestamps import proto_from_us, us_from_datetime
from tests.recorded_files import AT, BERLIN, a_meters, a_vehicles, readings_of


@dataclass(frozen=True)
class Row:
    """A reading before it is written: values by the contract's names, numbers as decimals, the time in microseconds."""

    is_meter: bool
    device_id: str
    at_us: int
    energy: Decimal
    """Of the interval, or what the register shows."""
    is_register: bool
    others: dict[str, Decimal]

    @property
    def energy_name(self) -> str:
        if self.is_register:
            return "registerKwh"
        return "kwhConsumedAc" if self.is_meter else "kwhDeliveredDc"

    def telemetry(self) -> Telemetry:
        reading = Telemetry()
        if self.is_meter:
            reading.meter.meter_id = self.device_id
            reading.meter.timestamp.CopyFrom(proto_from_us(self.at_us))
            if self.is_register:
                reading.meter.register_kwh = float(self.energy)
            else:
                reading.meter.kwh_consumed_ac = float(self.energy)
            if "voltage" in self.others:
                reading.meter.voltage = float(self.others["voltage"])
            return reading
        reading.vehicle.vehicle_id = self.device_id
        reading.vehicle.timestamp.CopyFrom(proto_from_us(self.at_us))
        if self.is_register:
            reading.vehicle.register_kwh = float(self.energy)
        else:
            reading.vehicle.kwh_delivered_dc = float(self.energy)
        if "soc" in self.others:
            reading.vehicle.soc = float(self.others["soc"])
        if "batteryTemp" in self.others:
            reading.vehicle.battery_temp = float(self.others["batteryTemp"])
        return reading


decimals = st.decimals(min_value=-999, max_value=999, allow_nan=False, allow_infinity=False, places=6)
instants_us = st.integers(us_from_datetime(datetime(2002, 1, 1, tzinfo=UTC)), 1_999_999_999_000_000)


device_ids = st.from_regex(r"[!-~]([ -~]{0,9}[!-~])?", fullmatch=True).filter(
    lambda text: text.lower() not in ("null", "n/a", "\\n")
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    is_meter = draw(st.booleans())
    names = ["voltage"] if is_meter else ["soc", "batteryTemp"]
    others = {name: draw(decimals) for name in names if draw(st.booleans())}
    return Row(is_meter, draw(device_ids), draw(instants_us), draw(decimals), draw(st.booleans()), others)


NAMES = {
    "meterId": ["meterId", "METER_ID", "meter-id", "Meter", "charger"],
    "vehicleId": ["vehicleId", "vehicle_id", "VIN", "EV", "Vehicle ID"],
    "timestamp": ["timestamp", "Timestamp", "time", "interval_end"],
    "voltage": ["voltage", "Voltage [V]", "voltage_v"],
    "soc": ["soc", "SoC (%)", "state_of_charge", "soc_percent"],
    "batteryTemp": ["batteryTemp", "battery_temp", "Battery Temperature [°C]", "batteryTempC"],
}
ENERGY_NAMES = {
    Unit.KWH: [
        ("kwhConsumedAc", "kwhDeliveredDc"),
        ("kwh_consumed_ac", "KWH_DELIVERED_DC"),
        ("energy_ac [kWh]", "energy_dc [kWh]"),
    ],
    Unit.WH: [
        ("consumed_ac_wh", "delivered_dc_wh"),
        ("Energy AC [Wh]", "Energy DC [Wh]"),
        ("AC energy (Wh)", "dcEnergyWh"),
    ],
}
SHARED_ENERGY_NAMES = {Unit.KWH: ["energy", "kWh", "Energy [kWh]"], Unit.WH: ["energy_wh", "Wh", "Energy (Wh)"]}
REGISTER_NAMES = {
    Unit.KWH: ["registerKwh", "register_kwh", "Register", "Meter reading [kWh]", "Lifetime energy"],
    Unit.WH: ["register_wh", "Meter Reading (Wh)", "Energy.Active.Import.Register [Wh]", "cumulativeEnergyWh"],
}


def plain(number: Decimal) -> str:
    return f"{number:f}"


def local_forms(at_us: int, zone: ZoneInfo) -> list[str]:
    """Ways to write an instant without an offset; none within an hour that clocks were set back over."""
    local = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    local = local.astimezone(zone)
    if local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset():
        return []
    return [f"{local:%Y-%m-%dT%H:%M:%S.%f}", f"{local:%Y/%m/%d %H:%M:%S.%f}", f"{local:%d.%m.%Y %H:%M:%S,%f}"]


def absolute_forms(at_us: int) -> list[str]:
    utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    east = utc.astimezone(timezone(timedelta(hours=5, minutes=45)))
    return [
        f"{utc:%Y-%m-%dT%H:%M:%S.%fZ}",
        f"{utc:%Y-%m-%d %H:%M:%S.%f}+00:00",
        f"{utc:%Y-%m-%d %H:%M:%S.%f} UTC",
        f"{east:%Y-%m-%d %H:%M:%S.%f}+0545",
        f"{at_us}",
        f"{at_us * 1_000}",
        f"{at_us // 1_000_000}.{at_us % 1_000_000:06}",
    ]


@given(st.data(), st.lists(rows(), min_size=1, max_size=5))
def test_any_readings_in_any_dialect_are_read_as_the_same_readings(data: st.DataObject, readings: list[Row]) -> None:
    draw = data.draw
    unit = draw(st.sampled_from(Unit))
    zone = draw(st.sampled_from([None, BERLIN, ZoneInfo("Asia/Kathmandu"), ZoneInfo("America/New_York")]))
    names = {name: draw(st.sampled_from(ways)) for name, ways in NAMES.items()}
    if draw(st.booleans()):
        names["kwhConsumedAc"], names["kwhDeliveredDc"] = draw(st.sampled_from(ENERGY_NAMES[unit]))
    else:
        names["kwhConsumedAc"] = names["kwhDeliveredDc"] = draw(st.sampled_from(SHARED_ENERGY_NAMES[unit]))
    names["registerKwh"] = draw(st.sampled_from(REGISTER_NAMES[unit]))
    written = []
    for each in readings:
        forms = absolute_forms(each.at_us) + (local_forms(each.at_us, zone) if zone else [])
        energy = each.energy * 1_000 if unit is Unit.WH else each.energy
        written.append(
            {
                names["meterId" if each.is_meter else "vehicleId"]: each.device_id,
                names["timestamp"]: draw(st.sampled_from(forms)),
                names[each.energy_name]: energy,
                **{names[name]: value for name, value in each.others.items()},
            }
        )
    form = draw(st.sampled_from(Format))
    if form is Format.CSV:
        delimiter = draw(st.sampled_from(",;\t|"))
        sign = draw(st.sampled_from(".,"))
        said = draw(st.booleans())
        dialect = Dialect(
            delimiter=delimiter if said else None, decimal=sign if said or delimiter == sign else None, zone=zone
        )
        columns = draw(st.permutations([*dict.fromkeys(names.values()), "comment", ""]))
        text = io.StringIO()
        writer = csv.DictWriter(
            text, columns, restval="", delimiter=delimiter, lineterminator=draw(st.sampled_from(["\n", "\r\n"]))
        )
        writer.writeheader()
        for cells in written:
            numbers = {
                name: plain(cell).replace(".", sign) for name, cell in cells.items() if isinstance(cell, Decimal)
            }
            writer.writerow(cells | numbers | {"comment": "60 kW; on site, left | rear"})
        file = text.getvalue()
    else:
        dialect = Dialect(zone=zone)
        objects = [
            json.dumps({name: float(cell) if isinstance(cell, Decimal) else cell for name, cell in cells.items()})
            for cells in written
        ]
        file = "\n".join(objects) if form is Format.NDJSON else f"[{', '.join(objects)}]"
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"] + (["latin-1"] if form is Format.CSV else [])))
    assert readings_of(file.encode(encoding), dialect) == [each.telemetry() for each in readings]


def test_a_spreadsheet_of_local_times_decimal_commas_and_wh_is_read() -> None:
    file = (
        "Zähler;Zeit;Energie [Wh];Spannung;Bemerkung\r\n"
        "m-1;05.03.2024 09:15;905;230,5;\r\n"
        "m-1;05.03.2024 09:30;1160,5;;defekt?\r\n"
    )
    columns = {"meterId": "zähler", "timestamp": "Zeit", "energy": "3", "voltage": "Spannung"}
    expected = [a_meters(0.905, "2024-03-05T08:15:00Z", voltage=230.5), a_meters(1.1605, AT)]
    for encoding in ("utf-8", "utf-8-sig", "latin-1", "utf-16"):
        assert readings_of(file.encode(encoding), Dialect(columns=columns, zone=BERLIN)) == expected


def test_columns_that_nobody_knows_are_named_once_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.BytesIO(f"meterId,timestamp,kwh,comment,phase,\nm-1,{AT},1,,,\nm-1,{AT},1,,,\n".encode())
    recording = Recording("day.csv", file, Format.CSV)
    recording.survey()
    assert len(list(recording.lines())) == 2
    assert capsys.readouterr().err == "day.csv: not read: 'comment', 'phase'\n"


def test_many_columns_that_nobody_knows_do_not_fill_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    header = ",".join(["meterId", "timestamp", "kwh", *("x" * 50 + str(number) for number in range(1_000))])
    list(Recording("a file", io.BytesIO(header.encode()), Format.CSV).lines())
    said = capsys.readouterr().err
    assert said.endswith("and 980 more\n")
    assert len(said) < 1_000


@pytest.mark.parametrize(
    ("header", "read"),
    [
        ("meterId,timestamp,energy_wh", {"energy": "'energy_wh', in Wh"}),
        ("meterId,timestamp,kWh", {"energy": "'kWh', in kWh"}),
        ("meterId,timestamp,kwhConsumedAc,energy", {"kwhConsumedAc": "'kwhConsumedAc', in kWh"}),
        ("meterId,timestamp_utc,kwh", {"timestamp": "'timestamp_utc', UTC where no offset is given"}),
        ("meterId,charger,timestamp,time,kwh", {"meterId": "'meterId'", "timestamp": "'timestamp'"}),
        ("vin,start,end,delivered_kwh,soc [%]", {"timestamp": "'end'", "soc": "'soc [%]'"}),
        ("vin,time,kwh,battery_temp_c", {"batteryTemp": "'battery_temp_c'"}),
        ("meter,time,meter_reading_wh", {"meterId": "'meter'", "registerKwh": "'meter_reading_wh', in Wh"}),
        ("meter,time,register,registerKwh", {"registerKwh": "'registerKwh', in kWh"}),
        ("meter,vin,time,kwh,register", {"energy": "'kwh', in kWh", "registerKwh": "'register', in kWh"}),
    ],
)
def test_a_column_is_what_its_name_says(header: str, read: dict[str, str]) -> None:
    recording = Recording("a file", io.BytesIO(header.encode()), Format.CSV)
    assert list(recording.lines()) == []
    assert read.items() <= recording.findings.columns.items()


@pytest.mark.parametrize(
    "other",
    [
        "battery_temp_f",
        "battery temp [°F]",
        "soc [kWh]",
        "temp",
        "voltage [kV]",
        "energy [MWh]",
        "total_kwh",
        "register [m3]",
        "Energy.Active.Export.Register",
        "v",
        "%",
    ],
)
def test_a_column_of_another_unit_or_of_something_else_is_not_read(other: str) -> None:
    recording = Recording("a file", io.BytesIO(f"vin,time,kwhDeliveredDc,{other}".encode()), Format.CSV)
    assert list(recording.lines()) == []
    assert recording.findings.columns.keys() == {"vehicleId", "timestamp", "kwhDeliveredDc"}


def test_energy_is_of_the_side_that_a_row_is_of() -> None:
    file = f"meter,vehicle,time,energy\nm-1,,{AT},1.5\n,ev-1,{AT},1.25\n"
    assert readings_of(file) == [a_meters(1.5), a_vehicles(1.25)]


def test_a_register_is_of_the_side_that_a_row_is_of() -> None:
    file = f"meter;vehicle;time;Meter reading [Wh];kwh\nm-1;;{AT};4021931,5;\n;ev-1;{AT};0;\nm-1;;{AT};;1,5\n"
    assert readings_of(file) == [
        a_meters(None, register_kwh=4021.9315),
        a_vehicles(None, register_kwh=0),
        a_meters(1.5),
    ]


def test_of_a_register_and_energy_the_one_that_is_said_is_read() -> None:
    file = f"meterId,timestamp,kwh,register,net_wh\nm-1,{AT},1.5,4021.5,1250\n"
    register, energy = a_meters(None, register_kwh=4021.5), a_meters(1.5)
    assert readings_of(file) == [a_meters(1.5, register_kwh=4021.5)], "the service is asked, and rejects it"
    assert readings_of(file, Dialect(columns={"registerKwh": "register"})) == [register]
    assert readings_of(file, Dialect(columns={"registerKwh": "net_wh"})) == [a_meters(None, register_kwh=1.25)]
    for name in ("energy", "kwhConsumedAc"):
        assert readings_of(file, Dialect(columns={name: "kwh"})) == [energy]
    both = Dialect(columns={"registerKwh": "register", "energy": "kwh"})
    assert readings_of(file.replace("1.5,4021.5", "1.5,"), both) == [energy]
    assert readings_of(file.replace("1.5,4021.5", ",4021.5"), both) == [register]


def test_ocpps_register_is_in_wh_or_kwh_as_it_is_said() -> None:
    file = f"meterId;timestamp;Energy.Active.Import.Register\nm-1;{AT};4021500\n"
    said = "'Energy.Active.Import.Register' may be in Wh, as OCPP has it where no unit is given, or in kWh: say --unit"
    for dialect in (Dialect(), Dialect(columns={"registerKwh": "3"})):
        with pytest.raises(BadInput, match=said):
            readings_of(file, dialect)
    assert readings_of(file, Dialect(unit=Unit.WH)) == [a_meters(None, register_kwh=4021.5)]
    assert readings_of(file, Dialect(unit=Unit.KWH)) == [a_meters(None, register_kwh=4021500)]


def test_a_file_without_devices_is_of_the_one_that_is_said() -> None:
    file = f"time;energy\n{AT};1,5\n"
    assert readings_of(file, Dialect(meter_id="m-1")) == [a_meters(1.5)]
    assert readings_of(file, Dialect(vehicle_id="ev-1")) == [a_vehicles(1.5)]
    with pytest.raises(BadInput, match="--meter and --vehicle are for what names no device, and here 'vin' does"):
        readings_of(f"vin;time;energy\nev-1;{AT};1,5\n", Dialect(meter_id="m-1"))


def test_a_table_whose_columns_are_said_by_number_needs_no_header() -> None:
    columns = {"vehicleId": "2", "timestamp": "1", "energy": "4"}
    expected = [a_vehicles(1.5), a_vehicles(1.75)]
    body = f"{AT};ev-1;x;1,5\n{AT};ev-1;x;1,75\n"
    assert readings_of(body, Dialect(columns=columns)) == expected
    assert readings_of(f"a;b;c;d\n{body}", Dialect(columns=columns)) == expected


def test_a_said_column_goes_before_what_names_say() -> None:
    file = f"meterId,timestamp,kwh,net_wh\nm-1,{AT},9,1250\n"
    assert readings_of(file, Dialect(columns={"kwhConsumedAc": "net_wh"})) == [a_meters(1.25)]
    assert readings_of(file, Dialect(columns={"energy": "net_wh"}, unit=Unit.KWH)) == [a_meters(1250)]
    with pytest.raises(BadInput, match="--columns says 'gross', and there is 'meterId', 'timestamp', 'kwh', 'net_wh'"):
        readings_of(file, Dialect(columns={"kwhConsumedAc": "gross"}))
    with pytest.raises(BadInput, match=r"column 'net \[MWh\]' says a unit in which kwhConsumedAc is not read"):
        readings_of("meterId,timestamp,net [MWh]\n", Dialect(columns={"kwhConsumedAc": "3"}))


def test_what_brackets_say_besides_units_does_not_matter_to_a_said_column() -> None:
    file = f"meterId;Time (CET);Work (import);U (L1-N)\nm-1;{AT};1,5;230\n"
    said = {"timestamp": "Time (CET)", "energy": "3", "voltage": "U (L1-N)"}
    assert readings_of(file, Dialect(columns=said)) == [a_meters(1.5, voltage=230)]
    with pytest.raises(BadInput, match=r"column 'Temp. \[°F\]' says a unit in which batteryTemp is not read"):
        readings_of("vin;time;kwh;Temp. [°F]\n", Dialect(columns={"batteryTemp": "4"}))


def test_a_line_for_excel_says_the_delimiter() -> None:
    assert readings_of(f"sep=|\nmeterId|timestamp|kwh\nm-1|{AT}|1.5\n") == [a_meters(1.5)]
