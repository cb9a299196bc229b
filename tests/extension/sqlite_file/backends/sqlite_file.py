"""A made-up medium: one SQLite file that holds every file of the store, as `storage.root: sqlite_file:///path`."""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from hashlib import sha256
from pathlib import Path

from influence_assets.durable import files, locks
from influence_assets.durable.temporary import is_abandoned, is_temporary_name, temporary_beside
from influence_assets.storage.backend import Backend, BackendKind, Entry

INSIDE = "name >= $folder || '/' and name < $folder || '0'"  # '0' follows '/' in ASCII


class SqliteFile(Backend):
    """Files as rows; what must be local lies in a folder beside the database."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._path = Path(root.partition("://")[2])
        self._drafts = self.local_root / ".drafts"

    @property
    def location(self) -> str:
        return self._root

    @property
    def local_root(self) -> Path:
        return self._path.with_name(f"{self._path.name}.working")

    def prepare(self) -> None:
        self._drafts.mkdir(parents=True, exist_ok=True)
        self._change("create table if not exists files (name text primary key, content blob) without rowid")

    def entries(self, folder: str) -> list[Entry]:
        start = len(folder) + 1 if folder else 0
        heads: dict[str, bool] = {}
        for name in self._names(folder):
            head, slash, _ = name[start:].partition("/")
            heads[head] = bool(slash)
        return [Entry(head, is_folder) for head, is_folder in sorted(heads.items())]

    def files_below(self, folder: str) -> list[str]:
        return [name[len(folder) + 1 :] for name in self._names(folder)]

    def size(self, name: str) -> int | None:
        rows = self._ask("select length(content) from files where name = $name", name=name)
        return rows[0][0] if rows else None

    def is_folder(self, name: str) -> bool:
        return bool(self._names(name))

    def read(self, name: str) -> bytes:
        rows = self._ask("select content from files where name = $name", name=name)
        if not rows:
            raise FileNotFoundError(2, "No such file or directory", name)
        return bytes(rows[0][0])

    def write(self, name: str, content: bytes) -> None:
        self._change("insert or replace into files values ($name, $content)", name=name, content=content)
        files.delete(self.local_root / name)

    def fetch(self, name: str, *, again: bool = False) -> Path:
        path = self.local_root / name
        if again:
            files.delete(path)
        wanted = self._ask(f"select name from files where name = $folder or {INSIDE}", folder=name)
        for (each,) in wanted:
            copy = self.local_root / each
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                files.write_atomically(copy, self.read(each))
        return path

    @contextmanager
    def draft(self, folder: str) -> Iterator[Path]:
        path = temporary_beside(self._drafts / "draft")
        path.mkdir(parents=True)
        try:
            with locks.holding(path):
                yield path
        finally:
            files.delete(path)

    def publish(self, draft: Path, folder: str) -> None:
        with self._connected() as connection:
            if connection.execute(
                f"select name from files where {INSIDE} or name = $folder", {"folder": folder}
            ).fetchall():
                raise FileExistsError(17, "File exists", folder)
            rows = [
                (f"{folder}/{path.relative_to(draft).as_posix()}", path.read_bytes())
                for path in files.files_below(draft)
            ]
            connection.executemany("insert into files values (?, ?)", rows)
        files.delete(self.local_root / folder)

    def remove(self, name: str) -> int:
        rows = self._ask(f"select name from files where name = $folder or {INSIDE}", folder=name)
        freed = self._delete([row[0] for row in rows])
        files.delete(self.local_root / name)
        return freed

    def remove_files(self, folder: str, names: Collection[str]) -> int:
        freed = self._delete([f"{folder}/{name}" for name in names])
        files.delete(self.local_root / folder)
        return freed

    def locked(
        self, name: str, *, shared: bool = False, patience_seconds: float | None = None
    ) -> AbstractContextManager[None]:
        lock = self.local_root / ".locks" / sha256(name.encode()).hexdigest()
        return locks.locked(lock, shared=shared, patience_seconds=patience_seconds)

    def remove_abandoned(self, *, including_live_elsewhere: bool) -> list[str]:
        drafts = [path for path in self._drafts.iterdir() if is_temporary_name(path.name)]
        removed = [path for path in drafts if including_live_elsewhere or is_abandoned(path)]
        for path in removed:
            files.delete(path)
        return [path.relative_to(self.local_root).as_posix() for path in removed]

    def remove_empty_folders(self) -> list[str]:
        return []

    def _names(self, folder: str) -> list[str]:
        where = INSIDE if folder else "true"
        return [name for (name,) in self._ask(f"select name from files where {where} order by name", folder=folder)]

    def _delete(self, names: Collection[str]) -> int:
        sizes = [self.size(name) or 0 for name in names]
        with self._connected() as connection:
            connection.executemany("delete from files where name = ?", [(name,) for name in names])
        return sum(sizes)

    def _ask(self, sql: str, **values: object) -> list[tuple]:
        if not self._path.exists():
            return []
        with self._connected() as connection:
            return connection.execute(
                sql, {name: value for name, value in values.items() if f"${name}" in sql}
            ).fetchall()

    def _change(self, sql: str, **values: object) -> None:
        with self._connected() as connection:
            connection.execute(sql, values)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=60)) as connection, connection:
            yield connection


BACKEND = BackendKind(name="sqlite_file", open=SqliteFile)
