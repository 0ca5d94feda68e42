"""How a message comes in: as a whole against its devices' rates, slice by slice towards the batches."""

import asyncio

import pytest

from ingestion_svc.admission import DeviceRates
from ingestion_svc.device_evidence import DeviceEvidence
from ingestion_svc.intake import Intake
from ingestion_svc.readings import TimeBounds
from shared.errors import DatabaseUnavailable, LimitExceeded
from tests.builders import NOW_US
from tests.unit.test_admission import Sent
from tests.unit.test_batch import FakeWriter, batching

DAY = 1_440
"""Readings of a device that was away for a day."""


async def test_a_day_of_backlog_in_a_message_passes_a_devices_rate_as_a_whole() -> None:
    writer = FakeWriter()
    async with batching(writer, batch_max_age_s=0) as batcher:
        intake = Intake(batcher, DeviceEvidence({}), DeviceRates(1.0), lambda: TimeBounds.at(NOW_US, 400))
        receipt = intake.receipt()
        await intake.take(Sent(meter=DAY), receipt)
        await receipt.completed()
        with pytest.raises(LimitExceeded) as refused:
            await intake.take(Sent(meter=1), intake.receipt())

    assert receipt.stored == DAY
    assert refused.value.retry_after_s == pytest.approx(DAY - 60, abs=5)


async def test_what_an_outage_kept_from_being_stored_is_not_held_against_its_device() -> None:
    writer = FakeWriter()
    async with batching(writer, batch_max_age_s=0, outage_grace_s=0.01) as batcher:
        intake = Intake(batcher, DeviceEvidence({}), DeviceRates(1.0), lambda: TimeBounds.at(NOW_US, 400))

        async def stored() -> int:
            receipt = intake.receipt()
            await intake.take(Sent(meter=DAY), receipt)
            await receipt.completed()
            return receipt.stored

        writer.away = True
        for _ in range(2):  # refused once it waits, and at once
            with pytest.raises(DatabaseUnavailable):
                await stored()
        writer.away = False
        writer.connected.clear()
        await asyncio.wait_for(writer.connected.wait(), 5)
        await asyncio.sleep(0)

        assert await stored() == DAY
