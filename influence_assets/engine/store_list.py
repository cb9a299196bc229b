"""The store's own list of withdrawn documents, which `influence forget` writes.

If it were lost, withdrawn texts would be published again. So it is checksummed and kept twice; if a copy is damaged or
lost, the tombstones are read too, and in doubt a document stays withdrawn. If no copy is whole, the list is doubtful:
nothing is computed until a person says which documents it named.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from influence_assets.corpus.withdrawn import Withdrawal, parsed_withdrawal
from influence_assets.engine.tombstones import Tombstones
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.backend import Backend
from influence_assets.storage.twin_files import TwinFile, Twins


class StoreList:
    """The list of withdrawn documents in a store.

    Args:
        backend: the store's backend.
        evidence: returns the withdrawals that other places know of; called only if the list is doubtful.
    """

    def __init__(self, backend: Backend, evidence: Callable[[], Mapping[str, Withdrawal]] = dict) -> None:
        self._evidence = evidence
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

    def refuse_doubt(self) -> None:
        """Raise if withdrawn documents may be missing from the list.

        Raises:
            StorageError: no copy is as it was written; or the list is missing, and so are the tombstones that would say
                whether there was one. The error says what to do.
        """
        files = self._doubtful_files(self.file.read())
        if files:
            known = len(self.entries())
            raise StorageError(
                f"{' and '.join(map(str, files))}: neither is as it was written, so that documents which were "
                "withdrawn may not be known any more. Nothing is computed or collected, because their texts could be "
                f"published again. Documents that are still known, and stay withdrawn: {known}. Restore one of the "
                "files from a backup; or run `influence forget --restore`, with `--document ID` for every other "
                "document that you withdrew."
            )

    def restore(self, withdrawals: Sequence[Withdrawal]) -> list[Withdrawal]:
        """Write the list anew: what is still known of it and these withdrawals; return all of them.

        Raises:
            InputError: one of `withdrawals` has no document_id, or a reason or date that cannot be stored.
            StorageError: the list cannot be read or written.
        """
        checked = _checked(withdrawals)
        with self.file.changing():
            entries = {one.document_id: one for one in reversed(checked)} | self.entries()
            self.file.write(_lines(entries.values()))
        return list(entries.values())

    def add(self, withdrawals: Sequence[Withdrawal]) -> list[Withdrawal]:
        """Add the withdrawals that are not on the list yet, and return them once they are synced to disk.

        Raises:
            InputError: one of `withdrawals` has no document_id, or a reason or date that cannot be stored.
            StorageError: the list cannot be read or written.
        """
        checked = _checked(withdrawals)
        with self.file.changing():
            entries = self.entries()
            new = {one.document_id: one for one in reversed(checked) if one.document_id not in entries}
            added = [one for one in checked if new.get(one.document_id) is one]
            if added:
                self._change([*entries.values(), *added])
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
                self._change([entry for document_id, entry in entries.items() if document_id not in removed])
        return removed

    def repair(self, elsewhere: Collection[str] = ()) -> dict[Path, str]:
        """Rewrite both copies if either is damaged or lost, and return what was wrong with each.

        Args:
            elsewhere: ids on the study's own list, as in `entries`.

        Raises:
            StorageError: the list cannot be read or written, or is doubtful.
        """
        with self.file.changing():
            self.refuse_doubt()
            twins = self.file.read()
            entries = self._entries(twins, elsewhere)
            troubles = dict(twins.troubles)
            if twins.is_missing and entries:
                troubles = dict.fromkeys(
                    (self.file.path, self.file.copy), "is missing, although tombstones name documents of it"
                )
            if troubles:
                self.file.write(_lines(entries.values()))
        return troubles

    def _entries(self, twins: Twins, elsewhere: Collection[str]) -> dict[str, Withdrawal]:
        entries: dict[str, Withdrawal] = {}
        for withdrawal in filter(None, map(_withdrawal, twins.lines)):
            entries.setdefault(withdrawal.document_id, withdrawal)
        if not twins.is_whole:
            for document_id, withdrawal in self._tombstones.withdrawn().items():
                if document_id not in elsewhere:
                    entries.setdefault(document_id, withdrawal)
        if self._doubtful_files(twins):
            for document_id, withdrawal in self._evidence().items():
                if document_id not in elsewhere:
                    entries.setdefault(document_id, withdrawal)
        return entries

    def _doubtful_files(self, twins: Twins) -> tuple[Path, ...]:
        """Return the files because of which withdrawn documents may be missing from the list."""
        if twins.is_doubtful:
            return self.file.path, self.file.copy
        tombstones = self._tombstones.file
        return (tombstones.path, tombstones.copy) if twins.is_missing and tombstones.read().is_doubtful else ()

    def _change(self, entries: Collection[Withdrawal]) -> None:
        """Write the list after a change; a doubtful one stays so, because only a person can say that it is complete."""
        self.file.write(_lines(entries), is_complete=not self._doubtful_files(self.file.read()))


def _checked(withdrawals: Sequence[Withdrawal]) -> list[Withdrawal]:
    return [parsed_withdrawal(asdict(withdrawal), "the withdrawal") for withdrawal in withdrawals]


def _lines(entries: Collection[Withdrawal]) -> list[str]:
    return [json.dumps(asdict(entry), ensure_ascii=False) for entry in entries]


def _withdrawal(line: str) -> Withdrawal | None:
    """Return the withdrawal on a line of the list; None if the line is damaged."""
    try:
        fields = json.loads(line)
        return parsed_withdrawal(fields, "") if isinstance(fields, dict) else None
    except (ValueError, InputError):
        return None
