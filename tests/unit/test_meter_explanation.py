"""What is said of a meter: its sentences name it and not a vehicle."""

from typing import Any

import pytest

from analytics_svc.explanation import FindingKind
from analytics_svc.judged_meter import IDS_TOLD_MAX, JudgedMeter, Told
from analytics_svc.meter_explanation import explain_meter, meter_findings_of
from analytics_svc.meter_performance import judge_meters
from analytics_svc.meter_tables import MeterTable, OwnSums
from analytics_svc.questions import Verdict
from analytics_svc.stretches import Aside
from tests.charging_model import THRESHOLDS
from tests.fleets import a_comparison, a_fleet

NOBODY = Told.of(())


def judged(
    vehicles: Told = Told(1, ("car",)),  # noqa: B008  # frozen
    shared_with: Told = NOBODY,
    aside: dict[Aside, tuple[float, float]] | None = None,
    mappings: int = 1,
    readings: tuple[int, int] = (9, 9),
    **compared: float,
) -> JudgedMeter:
    fed = a_fleet(
        ["it"],
        a_comparison(1, aside, **compared),
        mappings=mappings,
        meter_readings=readings[0],
        vehicle_readings=readings[1],
    )
    judgement = judge_meters(MeterTable(fed, OwnSums.nothing(1), {}, {}), THRESHOLDS)
    return JudgedMeter("it", fed.at(0), judgement.at(0, fed), None, 0, vehicles, shared_with)


def reason(meter: JudgedMeter) -> str:
    return explain_meter(meter, THRESHOLDS).reason


def test_a_meter_that_fed_no_vehicle_lacks_evidence_and_no_meter() -> None:
    meter = judged(NOBODY, mappings=0)
    assert meter.performance.verdict is Verdict.INSUFFICIENT_DATA
    assert reason(meter) == "The meter was mapped to no vehicle within the window."


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        ((0, 0), "Neither the meter nor a vehicle that it fed sent a reading meanwhile."),
        ((1_234, 0), "No vehicle sent a reading while the meter fed it; the meter sent 1,234."),
        ((0, 5), "The meter sent no reading while it fed vehicles; they sent 5."),
    ],
)
def test_who_sent_nothing_is_told(readings: tuple[int, int], said: str) -> None:
    assert reason(judged(readings=readings)) == said


def test_a_worn_charger_is_named_with_how_many_charged_there_and_who_alone_did() -> None:
    worn: dict[str, Any] = {"dc": 7.0, "ac": 10.0, "ac_squared_kw": 74.0}
    meter = judged(Told.of(f"car-{number}" for number in range(1_500)), **worn)
    assert len(meter.vehicles.ids) == IDS_TOLD_MAX
    explanation = explain_meter(meter, THRESHOLDS)
    lost = "Inspect the charger at meter it: 3.000 kWh of 10.000 kWh were lost while it charged"
    assert explanation.alert == f"{lost} 1,500 vehicles."
    assert explanation.reason.startswith("7.000 kWh were delivered of 10.000 kWh drawn, 70.0 %: a healthy charger")
    alone = explain_meter(judged(**worn), THRESHOLDS)
    assert alone.alert == f"{lost} 1 vehicle. It may be vehicle car as well: no other one charged there."
    assert explain_meter(judged(dc=9.0, ac=10.0, ac_squared_kw=74.0), THRESHOLDS).alert == ""


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (["b"], "meter b"),
        (["b", "c"], "meters b and c"),
        (["b", "c", "d"], "meters b, c and d"),
        (["b", "c", "d", "e", "f"], "meters b, c, d and 2 more"),
    ],
)
def test_meters_that_are_compared_together_are_named(others: list[str], named: str) -> None:
    meter = judged(shared_with=Told.of(others), dc=7.0, ac=10.0, ac_squared_kw=74.0)
    explanation = explain_meter(meter, THRESHOLDS)
    assert explanation.reason.endswith(f" Counted together with {named}, which fed a vehicle at the same time.")
    assert explanation.alert.startswith(f"Inspect the charger at meter it, together with {named}: ")


def test_findings_speak_of_vehicles() -> None:
    aside = {Aside.NOTHING_TAKEN: (0.0, 2.0), Aside.SILENT: (0.0, 3.0), Aside.NOTHING_DRAWN: (4.0, 0.0)}
    texts = {each.kind: each.text for each in meter_findings_of(judged(aside=aside, hours_apart=-5.0))}
    assert texts == {
        FindingKind.NOTHING_DRAWN: "4.000 kWh were delivered while the meters drew nothing.",
        FindingKind.NOTHING_TAKEN: (
            "2.000 kWh were drawn while the vehicles took nothing: they were heated or cooled, or something else was"
            " fed."
        ),
        FindingKind.VEHICLE_SILENT: "3.000 kWh were drawn since vehicles fell silent.",
        FindingKind.SIDES_APART: "The sides lie about 5 h apart, the vehicles earlier: a clock is wrong.",
    }
    frozen = judged(aside={Aside.NOTHING_DRAWN: (4.0, 0.0)})
    assert reason(frozen).startswith("4.000 kWh were delivered while the meter drew nothing: it is stuck, ")
    taken = judged(aside={Aside.NOTHING_TAKEN: (0.0, 2.0)})
    assert reason(taken) == "Nothing was charged: the vehicles took nothing of the 2.000 kWh that the meter drew."
