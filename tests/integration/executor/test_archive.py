"""Where steps are kept: a directory, or an S3-compatible store (a small stand-in, see docs/replay.md)."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kinitro.archive import Archive
from kinitro.errors import ConfigurationError, InfrastructureError


class Bucket:
    """Takes what is signed with the right key's name, and gives it back."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fails = False

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        if "Credential=the-key/" not in request.headers.get("authorization", ""):
            return Response("<Error><Code>AccessDenied</Code></Error>", 403)
        if self.fails:
            return Response("<Error><Code>SlowDown</Code></Error>", 400)
        if request.method == "PUT":
            self.objects[path] = await request.body()
            return Response(headers={"ETag": '"1"'})
        if path not in self.objects:
            return Response("<Error><Code>NoSuchKey</Code></Error>", 404)
        return Response(self.objects[path], headers={"ETag": '"1"', "Last-Modified": "Thu, 26 Nov 2026 12:00:00 GMT"})


@pytest.fixture
async def bucket(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    bucket, listener = Bucket(), socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/{path:path}", bucket.answer, methods=["GET", "PUT"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=0))
    serving = asyncio.create_task(server.serve([listener]))
    for name, value in {
        "AWS_ACCESS_KEY_ID": "the-key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
    }.items():
        monkeypatch.setenv(name, value)
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.005)
    yield bucket
    server.should_exit = True
    await serving


async def test_a_file_in_a_directory_comes_back(tmp_path) -> None:
    archive = Archive(f"{tmp_path.as_uri()}/a b/")
    assert await archive.read(await archive.put("cycle-1/x.steps", b"steps"), 100) == b"steps"
    assert [path.name for path in (tmp_path / "a b" / "cycle-1").iterdir()] == ["x.steps"]


async def test_an_object_in_a_bucket_comes_back(bucket) -> None:
    url = await Archive("s3://records/kinitro/").put("cycle-1/x.steps", b"steps")
    assert url == "s3://records/kinitro/cycle-1/x.steps"
    assert bucket.objects == {"/records/kinitro/cycle-1/x.steps": b"steps"}
    assert await Archive("s3://records/kinitro").read(url, 100) == b"steps"


async def test_what_is_larger_than_expected_is_refused(bucket, tmp_path) -> None:
    for archive in (Archive(tmp_path.as_uri()), Archive("s3://records")):
        url = await archive.put("x", bytes(101))
        with pytest.raises(InfrastructureError, match="larger than 100 bytes"):
            await archive.read(url, 100)


async def test_what_is_not_there_or_refused_is_said_in_one_line(bucket, tmp_path, monkeypatch) -> None:
    for place in (tmp_path.as_uri(), "s3://records"):
        with pytest.raises(InfrastructureError, match="can't be read") as caught:
            await Archive(place).read(f"{place}/nothing", 100)
        assert "\n" not in str(caught.value)
    bucket.fails = True
    with pytest.raises(InfrastructureError, match="can't be written"):
        await Archive("s3://records").put("x", b"")


@pytest.mark.parametrize(
    "url", ["", "records", "/tmp/records", "http://x/y", "file://host/path", "file:relative", "s3:///x"]
)
def test_what_is_no_place_is_refused(url) -> None:
    with pytest.raises(ConfigurationError, match="no place to keep records"):
        Archive(url)


@pytest.mark.parametrize("name", ["fifo", "folder", "device"])
async def test_only_a_regular_file_is_read_and_nothing_is_waited_for(tmp_path, name) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    archive = Archive(tmp_path.as_uri())
    async with asyncio.timeout(5):
        with pytest.raises(InfrastructureError, match=r"can't be read: .*(no regular file|Is a dir)"):
            await archive.read(f"{tmp_path.as_uri()}/{name}", 100)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "s3://records/kinitro/x",
        "{place}",
        "{place}-of-others/x",
        "{place}/../x",
        "{place}/a/%2e%2e/%2e%2e/x",
        "{place}/a%2f..%2f..%2fx",
        "{place}/x?versionId=1",
        "{place}//x",
    ],
)
async def test_what_is_not_below_the_place_is_not_opened(tmp_path, url) -> None:
    (tmp_path / "x").write_bytes(b"a secret")
    place = f"{tmp_path.as_uri()}/records"
    with pytest.raises(InfrastructureError, match="not in") as caught:
        await Archive(place).read(url.format(place=place), 100)
    assert place in caught.value.message
