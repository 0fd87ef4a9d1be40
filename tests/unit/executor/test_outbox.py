"""How many results go to the API in one request."""

import asyncio
from uuid import uuid4

from kinitro.executor.link import ApiLink
from kinitro.executor.outbox import Outbox
from kinitro.schemas import ResultIn, SubmitResponse
from kinitro.testing.records import made_up_record


class Api:
    """Takes everything and remembers how it came."""

    def __init__(self) -> None:
        self.batches: list[list[ResultIn]] = []

    async def submit(self, _executor_id: str, results: list[ResultIn]) -> SubmitResponse:
        self.batches.append(list(results))
        return SubmitResponse(accepted=len(results), rejected=0, errors=[])


async def sent(results: list[ResultIn]) -> list[list[ResultIn]]:
    api = Api()
    outbox = Outbox(ApiLink(api, "test"), lambda _: None)
    for result in results:
        outbox.put(result)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(outbox.run())
        assert await outbox.flush(5.0)
        running.cancel()
    assert [one for batch in api.batches for one in batch] == results
    return api.batches


def result(steps_bytes: int) -> ResultIn:
    record = made_up_record().model_copy(update={"steps": "A" * steps_bytes})
    return ResultIn(
        task_uuid=uuid4(), lease_token=uuid4(), success=True, score=1.0, total_reward=1.0, timesteps=1, record=record
    )


async def test_small_results_go_by_the_hundred() -> None:
    batches = await sent([result(1000) for _ in range(250)])
    assert [len(batch) for batch in batches] == [100, 100, 50]


async def test_no_request_is_larger_than_the_api_takes() -> None:
    batches = await sent([result(340_000) for _ in range(20)])
    sizes = [sum(len(one.model_dump_json()) for one in batch) for batch in batches]
    assert max(sizes) < 4 * 1024 * 1024
    assert len(batches) < 6


async def test_a_result_that_fills_a_request_alone_still_goes() -> None:
    assert [len(batch) for batch in await sent([result(3_000_000), result(1)])] == [1, 1]
