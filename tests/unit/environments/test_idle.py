import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from kinitro.environments.idle import IdleExit

LIMIT_S = 0.2


async def slow(_request) -> Response:
    await asyncio.sleep(3 * LIMIT_S)
    return Response("done")


@pytest.fixture
def idle() -> IdleExit:
    return IdleExit(Starlette(routes=[Route("/", slow)]), LIMIT_S)


async def test_a_server_that_nobody_asks_anything_expires(idle) -> None:
    async with asyncio.timeout(10 * LIMIT_S):
        await idle.expired()


async def test_a_request_in_flight_and_the_time_after_it_do_not_count_as_idle(idle) -> None:
    expiring = asyncio.create_task(idle.expired())
    transport = httpx.ASGITransport(idle)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/")).text == "done"
    assert not expiring.done()
    await asyncio.wait_for(expiring, 10 * LIMIT_S)
