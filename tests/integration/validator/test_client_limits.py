"""What the API client takes from a server that means ill."""

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from kinitro.client import KinitroClient
from kinitro.errors import ApiError, ApiUnreachable


async def too_much(request):
    async def parts():
        for _ in range(80):
            yield b" " * 2**20

    return StreamingResponse(parts())


async def dripping(request):
    async def parts():
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    return StreamingResponse(parts())


async def test_an_answer_larger_than_any_of_ours_is_cut_off(serve_app):
    async with (
        serve_app(Starlette(routes=[Route("/v1/weights/latest", too_much)])) as url,
        KinitroClient(url) as client,
    ):
        with pytest.raises(ApiError, match="sent more than 64 MiB"):
            await client.weights()


async def test_an_address_that_ends_in_v1_is_told_without_it(serve_app):
    app = Starlette(exception_handlers={404: lambda *_: JSONResponse({"detail": "Not Found"}, 404)})
    async with serve_app(app) as url, KinitroClient(f"{url}/v1/") as client:
        with pytest.raises(ApiError) as caught:
            await client.status()
    assert caught.value.advice == f"Give the address without /v1: {url}"


async def test_an_answer_that_drips_is_given_up_in_time(serve_app):
    app = Starlette(routes=[Route("/v1/weights/latest", dripping)])
    async with serve_app(app) as url, KinitroClient(url, timeout_s=0.5) as client, asyncio.timeout(10):
        with pytest.raises(ApiUnreachable, match="did not answer in time"):
            await client.weights()
