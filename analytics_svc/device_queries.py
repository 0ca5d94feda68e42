"""The question about all devices."""

import asyncio

from analytics_svc.device_list import ABSENT, Devices, kinds_of
from analytics_svc.device_sql import DEVICES
from analytics_svc.freshness import BY_TIME, DOUBTED
from analytics_svc.questions import DeviceQuestion
from analytics_svc.reader import QueryResult, Reader


async def all_devices(reader: Reader, question: DeviceQuestion) -> QueryResult[Devices]:
    """Every device of the kinds that a question is about. Raises DatabaseUnavailable and DeadlinePassed."""
    kinds = kinds_of(question)
    answers = await asyncio.gather(
        *(
            reader.ask(
                DEVICES[kind],
                {
                    "doubted": DOUBTED,
                    "by_time": list(BY_TIME),
                    "optional_fields": [f"{kind.name}.{name}" for name in kind.optional],
                    "absent": ABSENT,
                },
            )
            for kind in kinds
        )
    )
    parts = [Devices.of(kind, answer.value[0]) for kind, answer in zip(kinds, answers, strict=True)]
    return answers[0].replace(Devices.joined(parts)).beside(*answers)
