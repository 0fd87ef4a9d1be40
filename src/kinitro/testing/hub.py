"""A local stand-in for the model hub: enough of its HTTP interface for the real `huggingface_hub` client, unmodified.

It is for tests and for trying `kinitro miner deploy` on one machine. Point the client at it with `HF_ENDPOINT`. It has
no xet storage, so set `HF_HUB_DISABLE_XET=1` too when files are as large as `lfs_bytes`. It says what it is at `/` and
in the header `X-Kinitro-Local-Hub`. Everything is kept in one directory and found again after a restart.

    python -m kinitro.testing.hub --directory /tmp/hub --port 5555 --token me=hf_local
    export HF_ENDPOINT=http://127.0.0.1:5555 HF_TOKEN=hf_local
"""

import argparse
import asyncio
import base64
import binascii
import hashlib
import json
import re
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

# Any in this file: documents as they come from the client.

HEADER = "X-Kinitro-Local-Hub"
WHAT_IT_IS = "This is a local stand-in for a model hub, made by Kinitro for tests. It is not HuggingFace.\n"
MAX_JSON_BYTES = 512 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class HubFile:
    """One file of a commit. `sha256` names its content; `oid` is what git calls it."""

    size: int
    sha256: str
    oid: str
    lfs: bool


@dataclass
class HubRepo:
    """A repo: its commits in order, and whose eyes it is for."""

    repo_id: str
    private: bool
    commits: list[tuple[str, dict[str, HubFile]]] = field(default_factory=list)

    @property
    def owner(self) -> str:
        """The user it belongs to."""
        return self.repo_id.partition("/")[0]

    def find(self, revision: str) -> tuple[str, dict[str, HubFile]] | None:
        """The commit a revision means: `main`, a commit's name, or its first seven or more digits."""
        if revision in ("main", "HEAD"):
            return self.commits[-1]
        named = [commit for commit in self.commits if len(revision) >= 7 and commit[0].startswith(revision)]
        return named[0] if len(named) == 1 else None


@dataclass
class HubFault:
    """A misbehaviour: requests whose path holds `path` get this answer, `times` times (None: always).

    `status` None only delays the true answer by `delay_s`.
    """

    status: int | None
    path: str = ""
    method: str | None = None
    times: int | None = None
    delay_s: float = 0.0
    code: str = ""

    def takes(self, method: str, path: str) -> bool:
        """Whether it applies to this request; counts it when it does."""
        if self.times == 0 or self.path not in path or self.method not in (None, method):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class RefusedError(Exception):
    """An answer other than 200, as the hub words it."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class LocalHub:
    """The hub's state and answers. `tokens` maps a token to its user; each user owns the repos under their name.

    `access` says what a token may do, by default `{"role": "write"}`. `faults` makes it misbehave, `seen` holds every
    request as (method, path, authorization header). All may be changed while it runs.
    """

    def __init__(
        self, directory: Path, tokens: Mapping[str, str] | None = None, *, lfs_bytes: int = 10 * 1024 * 1024
    ) -> None:
        self._objects = directory / "objects"
        self._repos = directory / "repos"
        self._lfs_bytes = lfs_bytes
        self.tokens = dict(tokens or {})
        self.access: dict[str, dict[str, Any]] = {}
        self.faults: list[HubFault] = []
        self.seen: list[tuple[str, str, str | None]] = []
        for folder in (self._objects, self._repos):
            folder.mkdir(parents=True, exist_ok=True)

    def repo(self, repo_id: str) -> HubRepo | None:
        """The repo of this name, in any case."""
        try:
            document = json.loads(self._file_of(repo_id).read_text())
        except FileNotFoundError:
            return None
        commits = [(oid, {path: HubFile(**each) for path, each in files.items()}) for oid, files in document["commits"]]
        return HubRepo(document["repo_id"], document["private"], commits)

    def content(self, file: HubFile) -> Path:
        """Where a file's content is kept."""
        return self._objects / file.sha256

    def add_commit(self, repo: HubRepo, files: dict[str, HubFile]) -> str:
        """Adds a commit that holds exactly these files, and returns its name."""
        oid = hashlib.sha1(secrets.token_bytes(20), usedforsecurity=False).hexdigest()
        repo.commits.append((oid, files))
        self._save(repo)
        return oid

    def keep(self, data: bytes, *, lfs: bool = False) -> HubFile:
        """Keeps a content and returns the file it makes."""
        sha256 = hashlib.sha256(data).hexdigest()
        (self._objects / sha256).write_bytes(data)
        return _hub_file(sha256, len(data), _blob_name(data), lfs=lfs)

    def app(self) -> ASGIApp:
        """The web application."""
        repo = "/api/models/{owner}/{name}"
        routes = [
            Route("/", _say_what_it_is),
            Route("/api/whoami-v2", self._whoami),
            Route("/api/models", self._list_models),
            Route("/api/validate-yaml", _validate_yaml, methods=["POST"]),
            Route("/api/repos/create", self._create, methods=["POST"]),
            Route(f"{repo}/settings", self._change_settings, methods=["PUT"]),
            Route(f"{repo}/preupload/{{revision}}", self._preupload, methods=["POST"]),
            Route(f"{repo}/commit/{{revision}}", self._commit, methods=["POST"]),
            Route(f"{repo}/tree/{{revision}}", self._tree),
            Route(f"{repo}/revision/{{revision}}", self._info),
            Route(f"{repo}/xet-write-token/{{revision}}", _no_xet),
            Route(repo, self._info),
            Route("/{owner}/{name}.git/info/lfs/objects/batch", self._lfs_batch, methods=["POST"]),
            Route("/lfs/{oid}", self._lfs_put, methods=["PUT"]),
            Route("/{owner}/{name}/resolve/{revision}/{path:path}", self._resolve, methods=["GET", "HEAD"]),
        ]
        return _Misbehaving(Starlette(routes=routes, exception_handlers={RefusedError: _refused}), self)

    # Who asks, and for what

    def _user(self, request: Request) -> str | None:
        """The user whose token this is; None without one."""
        header = request.headers.get("authorization")
        if header is None:
            return None
        user = self.tokens.get(header.removeprefix("Bearer "))
        if user is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return user

    def _access(self, request: Request) -> dict[str, Any]:
        """What the caller's token may do, as the hub describes it."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self.access.get(token, {"role": "write"})

    def _readable(self, request: Request) -> HubRepo:
        user = self._user(request)
        repo = self.repo("{owner}/{name}".format(**request.path_params))
        if repo is not None and (not repo.private or _is(user, repo.owner)):
            return repo
        if user is None:
            # The hub does not tell strangers which repos there are. Over https the client knows this 401 by itself;
            # over http it needs the code.
            raise RefusedError(401, "Invalid username or password.", "RepoNotFound")
        raise RefusedError(404, "Repository not found", "RepoNotFound")

    def _writable(self, request: Request) -> HubRepo:
        repo = self._readable(request)
        if not _is(self._user(request), repo.owner) or self._access(request)["role"] != "write":
            raise RefusedError(403, f"You do not have write access to {repo.repo_id}.")
        return repo

    def _commit_of(self, request: Request) -> tuple[HubRepo, str, dict[str, HubFile]]:
        repo = self._readable(request)
        found = repo.find(request.path_params.get("revision", "main"))
        if found is None:
            raise RefusedError(404, "Invalid rev id", "RevisionNotFound")
        return repo, *found

    # Routes

    async def _whoami(self, request: Request) -> Response:
        user = self._user(request)
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        token = {"displayName": "local", **self._access(request)}
        return JSONResponse({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": token}})

    async def _list_models(self, request: Request) -> Response:
        user = self._user(request)
        repos = [self.repo(path.stem.replace("--", "/")) for path in sorted(self._repos.iterdir())]
        shown = [repo for repo in repos if repo and (not repo.private or _is(user, repo.owner))]
        return JSONResponse([{"id": repo.repo_id, "private": repo.private, "tags": []} for repo in shown])

    async def _create(self, request: Request) -> Response:
        user, asked = self._user(request), await _json(request)
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        owner, name = asked.get("organization") or user, str(asked.get("name"))
        if not _is(user, owner) or self._access(request)["role"] != "write":
            raise RefusedError(403, f"You don't have the rights to create a model under the namespace {owner!r}.")
        if not _NAME.fullmatch(name) or "--" in name or ".." in name:
            raise RefusedError(400, f"{name!r} is not a valid repo name.")
        present = self.repo(f"{owner}/{name}")
        if present is not None:
            url = f"{request.base_url}{present.repo_id}"
            return JSONResponse({"error": "You already created this model repo", "url": url}, 409)
        repo = HubRepo(f"{user}/{name}", private=_wants_private(asked, before=False))
        self.add_commit(repo, {".gitattributes": self.keep(_GIT_ATTRIBUTES)})
        return JSONResponse({"url": f"{request.base_url}{repo.repo_id}", "name": repo.repo_id, "id": repo.repo_id})

    async def _change_settings(self, request: Request) -> Response:
        repo = self._writable(request)
        repo.private = _wants_private(await _json(request), before=repo.private)
        self._save(repo)
        return JSONResponse({"private": repo.private})

    async def _preupload(self, request: Request) -> Response:
        repo = self._writable(request)
        present = repo.commits[-1][1]
        answer = []
        for file in (await _json(request))["files"]:
            known = present.get(file["path"])
            mode = "lfs" if file["size"] >= self._lfs_bytes else "regular"
            oid = (known.sha256 if known.lfs else known.oid) if known else None
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": answer})

    async def _lfs_batch(self, request: Request) -> Response:
        self._writable(request)
        objects: list[dict[str, Any]] = (await _json(request))["objects"]
        for each in objects:
            if not re.fullmatch(r"[0-9a-f]{64}", each["oid"]):
                raise RefusedError(422, "An oid is 64 hex digits.")
            if not (self._objects / each["oid"]).exists():
                each["actions"] = {"upload": {"href": f"{request.base_url}lfs/{each['oid']}"}}
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _lfs_put(self, request: Request) -> Response:
        oid = request.path_params["oid"]
        digest, part = hashlib.sha256(), self._objects / f".{secrets.token_hex(8)}"
        try:
            with part.open("wb") as file:
                async for chunk in request.stream():
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != oid:
                raise RefusedError(422, "The content is not what its name says.")
            part.replace(self._objects / oid)
        finally:
            part.unlink(missing_ok=True)
        return Response()

    async def _commit(self, request: Request) -> Response:
        repo = self._writable(request)
        body = await _body(request)
        files = dict(repo.commits[-1][1])
        for line in body.splitlines():
            if line.strip():
                entry = json.loads(line)
                self._apply(files, entry["key"], entry["value"])
        oid = self.add_commit(repo, files)
        url = f"{request.base_url}{repo.repo_id}/commit/{oid}"
        return JSONResponse({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _apply(self, files: dict[str, HubFile], kind: str, value: dict[str, Any]) -> None:
        match kind:
            case "header":
                pass
            case "file":
                files[value["path"]] = self.keep(_decoded(value))
            case "lfsFile":
                if not (self._objects / value["oid"]).exists():
                    raise RefusedError(400, f"{value['path']} was not uploaded.")
                files[value["path"]] = _hub_file(value["oid"], value["size"], "", lfs=True)
            case "deletedFile":
                files.pop(value["path"], None)
            case "deletedFolder":
                for path in [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]:
                    del files[path]
            case _:
                raise RefusedError(400, f"This stand-in knows no {kind!r} in a commit.")

    async def _info(self, request: Request) -> Response:
        repo, oid, files = self._commit_of(request)
        siblings = [
            {"rfilename": path, "size": file.size, "blobId": file.oid} | _lfs_of(file, "sha256")
            for path, file in sorted(files.items())
        ]
        return JSONResponse(
            {"id": repo.repo_id, "sha": oid, "private": repo.private, "tags": [], "downloads": 0, "siblings": siblings}
        )

    async def _tree(self, request: Request) -> Response:
        _repo, _oid, files = self._commit_of(request)
        return JSONResponse(
            [
                {"type": "file", "path": path, "oid": file.oid, "size": file.size} | _lfs_of(file, "oid")
                for path, file in sorted(files.items())
            ]
        )

    async def _resolve(self, request: Request) -> Response:
        _repo, oid, files = self._commit_of(request)
        file = files.get(request.path_params["path"])
        if file is None:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        etag = f'"{file.sha256 if file.lfs else file.oid}"'
        headers = {"X-Repo-Commit": oid, "ETag": etag}
        if file.lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(file.size)}
        return FileResponse(self.content(file), media_type="application/octet-stream", headers=headers)

    # Keeping

    def _file_of(self, repo_id: str) -> Path:
        owner, _, name = repo_id.partition("/")
        if not _NAME.fullmatch(owner) or not _NAME.fullmatch(name):
            return self._repos / "none.json"
        return self._repos / f"{owner}--{name}.json".lower()

    def _save(self, repo: HubRepo) -> None:
        path = self._file_of(repo.repo_id)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(repo)))
        part.replace(path)


class _Misbehaving:
    """Says what it is in every answer, notes every request, and fails as it was told to."""

    def __init__(self, app: ASGIApp, hub: LocalHub) -> None:
        self._app = app
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_header(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (HEADER.lower().encode(), b"stand-in")]
            await send(message)

        request = Request(scope)
        self._hub.seen.append((request.method, request.url.path, request.headers.get("authorization")))
        fault = next((each for each in self._hub.faults if each.takes(request.method, request.url.path)), None)
        if fault is not None:
            await asyncio.sleep(fault.delay_s)
        if fault is None or fault.status is None:
            await self._app(scope, receive, with_header)
        else:
            await _refused(request, RefusedError(fault.status, "told to fail", fault.code))(scope, receive, with_header)


async def _say_what_it_is(_request: Request) -> Response:
    return PlainTextResponse(WHAT_IT_IS)


async def _validate_yaml(_request: Request) -> Response:
    return JSONResponse({"errors": [], "warnings": []})


async def _no_xet(_request: Request) -> Response:
    raise RefusedError(404, "This stand-in has no xet storage: set HF_HUB_DISABLE_XET=1.")


def _refused(_request: Request, error: Exception) -> Response:
    status, code = (error.status, error.code) if isinstance(error, RefusedError) else (500, "")
    headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": code} if code else {})
    return JSONResponse({"error": str(error)}, status, headers=headers)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise RefusedError(413, "The body is too large.")
    return bytes(body)


async def _json(request: Request) -> dict[str, Any]:
    try:
        document = json.loads(await _body(request))
    except ValueError:
        raise RefusedError(400, "The body is not JSON.") from None
    if not isinstance(document, dict):
        raise RefusedError(400, "The body is not an object.")
    return document


def _wants_private(asked: Mapping[str, Any], *, before: bool) -> bool:
    """The visibility asked for, in either of the two ways the hub takes."""
    if "visibility" in asked:
        return bool(asked["visibility"] != "public")
    return bool(asked.get("private", before))


def _decoded(value: Mapping[str, Any]) -> bytes:
    with suppress(binascii.Error, KeyError):
        return base64.b64decode(value["content"], validate=True)
    raise RefusedError(400, "A file's content is not base64.")


def _is(user: str | None, owner: str) -> bool:
    return user is not None and user.lower() == owner.lower()


def _hub_file(sha256: str, size: int, oid: str, *, lfs: bool) -> HubFile:
    if not lfs:
        return HubFile(size, sha256, oid, lfs=False)
    return HubFile(size, sha256, _blob_name(_pointer(sha256, size)), lfs=True)


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _lfs_of(file: HubFile, name: str) -> dict[str, Any]:
    if not file.lfs:
        return {}
    return {"lfs": {name: file.sha256, "size": file.size, "pointerSize": len(_pointer(file.sha256, file.size))}}


def _blob_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@asynccontextmanager
async def serving(hub: LocalHub, port: int = 0) -> AsyncIterator[str]:
    """Serves the hub on loopback and gives its URL, for `HF_ENDPOINT`."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(hub.app(), log_level="critical", ws="none", lifespan="off", timeout_graceful_shutdown=0)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve([listener]))
        try:
            while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
                await asyncio.sleep(0.005)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def main() -> None:
    """Serves until told to stop."""
    parser = argparse.ArgumentParser(description=WHAT_IT_IS)
    parser.add_argument("--directory", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--port", type=int, default=5555, help="port on 127.0.0.1 (default %(default)s)")
    parser.add_argument("--token", action="append", default=[], metavar="USER=TOKEN", help="may be given several times")
    arguments = parser.parse_args()
    pairs = [pair.partition("=") for pair in arguments.token]
    hub = LocalHub(arguments.directory, {token: user for user, _, token in pairs})
    uvicorn.run(hub.app(), host="127.0.0.1", port=arguments.port, log_level="warning", lifespan="off", ws="none")


if __name__ == "__main__":
    main()
