"""What follows from the description of a kind of device."""

import pytest

from ingestion_svc.readings import MeterRow, VehicleRow
from shared.db.device_kind import METER, VEHICLE, DeviceKind


@pytest.mark.parametrize(("kind", "row"), [(METER, MeterRow), (VEHICLE, VehicleRow)], ids=["meters", "vehicles"])
def test_decoded_rows_have_the_measurements_of_their_kind_in_its_order(
    kind: DeviceKind, row: type[MeterRow] | type[VehicleRow]
) -> None:
    assert row._fields == (f"{kind.name}_id", "ts_us", *kind.measurements)


@pytest.mark.parametrize(
    ("statement", "of_meters", "of_pumps"),
    [
        ("SELECT {device}_key FROM {device}s", "SELECT meter_key FROM meters", "SELECT pump_key FROM pumps"),
        ("sum({energy})", "sum(kwh_consumed_ac)", "sum(kwh)"),
        ("sum({returned})", "sum(kwh_returned_ac)", "sum(back)"),
        ("{measurements}", "kwh_consumed_ac, voltage, register_kwh", "kwh, flow, heat, register_kwh"),
        ("{optional}", "voltage, register_kwh", "flow, heat, register_kwh"),
        ("SET {optional:# = old.#}", "SET voltage = old.voltage, register_kwh = old.register_kwh",
         "SET flow = old.flow, heat = old.heat, register_kwh = old.register_kwh"),
        ("count(*) {averaged:, sum(#)}", "count(*) ", "count(*) , sum(heat), sum(flow)"),
        ("{totals:hour_#}", "hour_kwh, hour_kwh_returned, hour_readings",
         "hour_kwh, hour_kwh_returned, hour_readings,"
         " hour_heat_sum, hour_heat_readings, hour_flow_sum, hour_flow_readings"),
    ],
)  # fmt: skip
def test_a_statement_about_any_kind_is_rendered_with_the_names_of_one(
    statement: str, of_meters: str, of_pumps: str
) -> None:
    pump = DeviceKind("pump", energy="kwh", returned="back", optional=("flow", "heat"), averaged=("heat", "flow"))
    assert (METER.render(statement), pump.render(statement)) == (of_meters, of_pumps)
