"""The demo's comparison finds every kind of difference."""

import pytest
from energyfleet.v1.analytics_service_pb2 import FindingKind, GetVehiclePerformanceResponse, Verdict

from fleetcli.client.services import Summary, verdict_of
from fleetcli.simulation.check import differences
from fleetcli.simulation.sending import unexpected
from fleetcli.simulation.simulator import Fleet, FleetPlan
from fleetcli.simulation.truth import VehicleTruth
from shared.timestamps import US_PER_HOUR


def a_truth() -> VehicleTruth:
    truth = VehicleTruth("ev-1", "healthy")
    for hour, dc_kwh, ac_kwh in ((1, 0.9, 1.0), (2, 0.9, 1.0), (3, -0.9, -0.8)):
        truth.add_vehicle_reading(hour * US_PER_HOUR, dc_kwh, 25.0)
        truth.add_meter_reading(hour * US_PER_HOUR, ac_kwh)
    return truth


def an_answer() -> GetVehiclePerformanceResponse:
    return GetVehiclePerformanceResponse(
        vehicle_id="ev-1",
        kwh_delivered_dc=0.9,
        kwh_consumed_ac=1.2,
        efficiency_ratio=0.75,
        kwh_lost=0.3,
        average_battery_temp=25.0,
        vehicle_readings=3,
        meter_readings=3,
        verdict=Verdict.VERDICT_OK,
        kwh_returned_dc=0.9,
        kwh_returned_ac=0.8,
    )


def test_an_answer_that_is_true_differs_in_nothing() -> None:
    assert list(differences(a_truth(), an_answer())) == []
    nothing = GetVehiclePerformanceResponse(verdict=Verdict.VERDICT_INSUFFICIENT_DATA)
    assert list(differences(VehicleTruth("ev-1", ""), nothing)) == []


@pytest.mark.parametrize(
    "field",
    [
        "kwh_delivered_dc",
        "kwh_consumed_ac",
        "kwh_returned_dc",
        "kwh_returned_ac",
        "efficiency_ratio",
        "average_battery_temp",
        "vehicle_readings",
        "meter_readings",
        "verdict",
    ],
)
def test_each_wrong_or_absent_number_is_a_difference(field: str) -> None:
    wrong, absent = an_answer(), an_answer()
    right = getattr(wrong, field)
    setattr(wrong, field, right * (1 + 2e-9) if isinstance(right, float) else right + 1)
    absent.ClearField(field)  # type: ignore[arg-type]  # literal names only, and these are
    for answer in (wrong, absent):
        (difference,) = differences(a_truth(), answer)
        assert difference.startswith(field)


def test_rounding_is_no_difference() -> None:
    answer = an_answer()
    answer.kwh_delivered_dc *= 1 + 1e-12
    assert list(differences(a_truth(), answer)) == []


def test_a_verdict_of_a_newer_service_is_shown_by_its_number() -> None:
    answer = an_answer()
    answer.verdict = 99  # type: ignore[assignment]  # what a newer service may send
    assert verdict_of(answer) == "99"


def test_counts_of_the_stream_that_are_not_what_was_sent_are_told() -> None:
    fleet = Fleet(FleetPlan(2, 0, 2 * US_PER_HOUR, 60, 1))
    sent = sum(len(burst) for burst in fleet.bursts())
    repeated = fleet.sent.repeated
    right = Summary(received=sent, stored=sent - repeated, duplicate=repeated)
    assert unexpected(fleet, right) == []
    lost = Summary(received=sent, stored=sent - repeated - 1, duplicate=repeated, rejected=1)
    assert unexpected(fleet, lost) == [
        f"{sent - repeated - 1} stored instead of {sent - repeated}",
        "1 rejected instead of 0",
    ]


def test_a_wrong_absent_or_invented_normal_ratio_is_a_difference_and_so_is_a_drop_that_is_not_told() -> None:
    truth, answer = a_truth(), an_answer()
    answer.baseline_ratio = 0.9
    assert len(list(differences(truth, answer))) == 1
    truth.add_past(40.0, 38.0)
    answer.baseline_ratio = 0.955
    assert [each.partition(" ")[0] for each in differences(truth, answer)] == ["RATIO_DROPPED"]
    answer.findings.add(kind=FindingKind.FINDING_KIND_RATIO_DROPPED)
    assert list(differences(truth, answer)) == []
    answer.baseline_ratio = 0.93
    assert len(list(differences(truth, answer))) == 1
    answer.ClearField("baseline_ratio")
    assert len(list(differences(truth, answer))) == 1
