"""The store's own list of withdrawn documents, which `influence forget` writes.

If it were lost, withdrawn texts would be published again. So it is checksummed and kept twice; if a copy is damaged or
lost, the tombstones are read too, and in doubt a document stays withdrawn.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from influence_assets.corpus.withdrawn import Withdrawal, parsed_withdrawal
from influence_assets.engine.tombstones import Tombstones
from influence_assets.errors import InputError
from influence_assets.storage.backend import Backend
from influence_assets.storage.twin_files import TwinFile, Twins


class StoreList:
    """The list of withdrawn documents in a store.

    Args:
        backend: the store's backend.
    """

    def __init__(self, backend: Backend) -> None:
        self.file = TwinFile(backend, "withdrawn.jsonl")
        self._tombstones = Tombstones(backend)

    def entries(self, elsewhere: Collection[str] = ()) -> dict[str, Withdrawal]:
        """Return the withdrawals by document: those in either copy and, unless both are intact, in the tombstones.

        Args:
            elsewhere: ids on the study's own list; tombstones do not add these to the store's list.

        Raises:
            StorageError: a copy cannot be read, and the other is not intact.
        """
        return self._entries(self.file.read(), elsewhere)

    def add(self, withdrawals: Sequence[Withdrawal]) -> list[Withdrawal]:
        """Add the withdrawals that are not on the list yet, and return them once they are synced to disk.

        Raises:
            InputError: one of `withdrawals` has no document_id, or a reason or date that cannot be stored.
            StorageError: the list cannot be read or written.
        """
        checked = [parsed_withdrawal(asdict(withdrawal), "the withdrawal") for withdrawal in withdrawals]
        with self.file.changing():
            entries = self.entries()
            new = {one.document_id: one for one in reversed(checked) if one.document_id not in entries}
            added = [one for one in checked if new.get(one.document_id) is one]
            if added:
                self._write([*entries.values(), *added])
        return added

    def remove(self, document_ids: Collection[str]) -> list[str]:
        """Take documents off the list, and return those that were on it.

        Raises:
            StorageError: the list cannot be read or written.
        """
        with self.file.changing():
            entries = self.entries()
            removed = [document_id for document_id in entries if document_id in set(document_ids)]
            if removed:
                self._write([entry for document_id, entry in entries.items() if document_id not in removed])
        return removed

    def repair(self, elsewhere: Collection[str] = ()) -> dict[Path, str]:
        """Rewrite both copies if either is damaged or lost, and return what was wrong with each.

        Args:
            elsewhere: ids on the study's own list, as in `entries`.

        Raises:
            StorageError: the list cannot be read or written.
        """
        with self.file.changing():
            twins = self.file.read()
            entries = self._entries(twins, elsewhere)
            troubles = dict(twins.troubles)
            if twins.is_missing and entries:
                troubles = dict.fromkeys(
                    (self.file.path, self.file.copy), "is missing, although tombstones name documents of it"
                )
            if troubles:
                self._write(list(entries.values()))
        return troubles

    def _entries(self, twins: Twins, elsewhere: Collection[str]) -> dict[str, Withdrawal]:
        entries: dict[str, Withdrawal] = {}
        for withdrawal in filter(None, map(_withdrawal, twins.lines)):
            entries.setdefault(withdrawal.document_id, withdrawal)
        if not twins.is_whole:
            for document_id, withdrawal in self._tombstones.withdrawn().items():
                if document_id not in elsewhere:
                    entries.setdefault(document_id, withdrawal)
        return entries

    def _write(self, entries: Sequence[Withdrawal]) -> None:
        self.file.write([json.dumps(asdict(entry), ensure_ascii=False) for entry in entries])


def _withdrawal(line: str) -> Withdrawal | None:
    """Return the withdrawal on a line of the list; None if the line is damaged."""
    try:
        fields = json.loads(line)
        return parsed_withdrawal(fields, "") if isinstance(fields, dict) else None
    except (ValueError, InputError):
        return None
