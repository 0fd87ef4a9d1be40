"""The hub's routes that a download needs, in memory: one repo, and ways to misbehave."""

import hashlib

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

REVISION = "ab" * 20


class FakeHub:
    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.sha = REVISION
        self.sizes: dict[str, int] = {}
        self.served: dict[str, bytes] = {}
        self.refuse_repo: list[tuple[int, str]] = []
        self.refuse_always: tuple[int, str] | None = None
        self.refuse_access: int | None = None
        self.tokens: set[str | None] = set()
        self.downloads = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/whoami-v2", self._access),
                Route("/api/models", self._access),
                Route("/api/models/{owner}/{name}/revision/{revision}", self._info),
                Route("/api/models/{owner}/{name}/tree/{revision}", self._tree),
                Route("/{owner}/{name}/resolve/{revision}/{path:path}", self._file, methods=["GET", "HEAD"]),
            ]
        )

    def _refusal(self, request: Request) -> Response | None:
        self.tokens.add(request.headers.get("authorization"))
        refusal = self.refuse_always or (self.refuse_repo.pop(0) if self.refuse_repo else None)
        if refusal is None:
            return None
        status, code = refusal
        return JSONResponse({"error": code}, status, headers={"X-Error-Code": code} if code else None)

    async def _access(self, _request: Request) -> Response:
        if self.refuse_access is not None:
            return JSONResponse({"error": "no"}, self.refuse_access)
        return JSONResponse({"name": "us"} if "whoami" in str(_request.url) else [])

    async def _info(self, request: Request) -> Response:
        return self._refusal(request) or JSONResponse(
            {
                "id": "user/policy",
                "sha": self.sha,
                "private": False,
                "tags": [],
                "siblings": [
                    {"rfilename": name, "size": self.sizes.get(name, len(data)), "blobId": _blob(data)}
                    for name, data in self.files.items()
                ],
            }
        )

    async def _tree(self, _request: Request) -> Response:
        return JSONResponse(
            [{"type": "file", "path": name, "oid": _blob(data), "size": len(data)} for name, data in self.files.items()]
        )

    async def _file(self, request: Request) -> Response:
        name = request.path_params["path"]
        data = self.served.get(name, self.files[name])
        headers = {"X-Repo-Commit": self.sha, "ETag": f'"{_blob(data)}"', "Content-Length": str(len(data))}
        self.downloads += request.method == "GET"
        return Response(b"" if request.method == "HEAD" else data, headers=headers)


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
