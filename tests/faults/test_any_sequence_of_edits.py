"""Edits in any order, with processes killed at any moment, end where a build from scratch ends."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from influence_assets.engine.store_list import StoreList
from influence_assets.errors import InputError, StorageError
from influence_assets.storage.catalogue import query, run_checks
from tests.faults import comparison, working, zygote
from tests.faults.changing import FILES, IDS, WORDS, Corpus, Ground

documents = st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=4)
kills = st.one_of(
    st.none(),
    st.integers(1, 250).map(lambda step: zygote.Kill(step=step)),
    st.integers(100, 1200).map(lambda thousandths: zygote.Kill(seconds=thousandths / 1000)),
)


def machine(ground: Ground) -> type[RuleBasedStateMachine]:
    """The edits and what may happen between them, on this ground."""

    class Edits(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.corpus: Corpus = ground.begin()
            self.withdrawn: set[int] = set()
            self.is_damaged = False
            self.generations = 1
            self.published: set[tuple[str, str]] = set()
            self.version = ""
            self.tombstones: dict[tuple[str, str], bool] = {}  # whether the document's file vanished
            self.observe()

        @rule(name=st.sampled_from(FILES), documents=documents)
        def write_a_file(self, name: str, documents: list[int]) -> None:
            self.corpus.write(name, documents)

        @rule(choice=st.integers(0, 9), documents=documents)
        def append_to_a_file(self, choice: int, documents: list[int]) -> None:
            name = sorted(self.corpus.files)[choice % len(self.corpus.files)]
            self.corpus.write(name, self.corpus.files[name] + documents)

        @precondition(lambda self: len(self.corpus.files) > 1)
        @rule(choice=st.integers(0, 9))
        def remove_a_file(self, choice: int) -> None:
            self.corpus.remove(sorted(self.corpus.files)[choice % len(self.corpus.files)])

        @precondition(lambda self: self.corpus.gone)
        @rule()
        def bring_a_file_back(self) -> None:
            name = min(self.corpus.gone)
            self.corpus.write(name, self.corpus.gone[name])

        @rule(choice=st.integers(0, 99), kill=kills)
        def withdraw_a_document(self, choice: int, kill: zygote.Kill | None) -> None:
            there = sorted({document for found in self.corpus.files.values() for document in found})
            self.happens(working.forget, IDS[there[choice % len(there)]], "asked for", kill=kill)

        @rule(kill=kills)
        def run(self, kill: zygote.Kill | None) -> None:
            self.happens(working.run, kill=kill)

        @rule(kill=kills)
        def run_again(self, kill: zygote.Kill | None) -> None:
            self.happens(working.run, kill=kill)

        @precondition(lambda self: self.generations < 3)
        @rule(kill=kills)
        def begin_a_generation(self, kill: zygote.Kill | None) -> None:
            self.generations += 1
            self.happens(working.begin_generation, kill=kill)

        @rule(keep=st.integers(0, 2), kill=kills)
        def collect_garbage(self, keep: int, kill: zygote.Kill | None) -> None:
            self.happens(working.gc, keep, kill=kill)

        @rule(place=st.floats(0, 1, exclude_max=True), bit=st.floats(0, 1, exclude_max=True))
        def damage_a_file(self, place: float, bit: float) -> None:
            files = sorted(damageable(ground.store))
            flip(files[int(place * len(files))], bit)
            self.is_damaged = True

        def happens(self, function: Callable[..., Any], *arguments: Any, kill: zygote.Kill | None) -> None:
            process = zygote.Process(working.attempt, function, ground.study, *arguments, below=ground.store, kill=kill)
            ended = process.ended()
            if not ended.killed and not self.is_damaged:
                answer = ended.answer
                assert not isinstance(answer, str), answer
                if isinstance(answer, working.Ran):
                    assert not answer.failures, answer.failures
                    assert not answer.left_out
            self.observe()

        def observe(self) -> None:
            """What a reader sees is complete, whatever just happened, and what left it is remembered."""
            listed = StoreList(comparison.workspace(ground.study).store.backend).entries().keys()
            self.withdrawn = {number for number, document_id in enumerate(IDS) if document_id in listed}
            catalogue = comparison.workspace(ground.study).catalogue
            try:
                version = query(catalogue, "select content_version from catalogue").item()
                rows = query(catalogue, "select shard_id, document_id from documents").rows()
                complete = query(catalogue, COMPLETE).item()
            except (InputError, StorageError):
                assert self.is_damaged
                return
            assert complete
            if version != self.version:
                self.version = version
                self.tombstones = self.tombstones_after_a_load()
                self.published = set(rows)

        def tombstones_after_a_load(self) -> dict[tuple[str, str], bool]:
            """A withdrawal is remembered also when the file has lost the document since; a file that is back is not."""
            shards, withdrawn_ids = self.corpus.shards(), {IDS[d] for d in self.withdrawn}
            withdrawn = {(shard, IDS[d]): False for shard, held in shards.items() for d in held if d in self.withdrawn}
            vanished = {(shard, document): True for shard, document in self.published if shard not in shards}
            standing = {
                (shard, document): has_vanished
                for (shard, document), has_vanished in self.tombstones.items()
                if shard not in shards or (not has_vanished and document in withdrawn_ids)
            }
            return withdrawn | vanished | standing

        def teardown(self) -> None:
            """To the end, and compare."""
            study = ground.study
            self.happens(working.look, kill=None)
            self.happens(working.run, kill=None)
            if zygote.live(working.look, study, below=ground.store).answer:
                assert self.is_damaged
                zygote.live(working.rebuild, study, below=ground.store)
            was_damaged, self.is_damaged = self.is_damaged, False
            self.happens(working.run, kill=None)
            self.happens(working.gc, 0, kill=None)
            self.happens(working.run, kill=None)
            assert comparison.workspace(study).catalogue_version() == self.version
            assert zygote.live(working.look, study, below=ground.store).answer == []
            self.assert_documents(was_damaged=was_damaged)
            comparison.assert_no_orphans(study)
            self.assert_no_traces()
            again = comparison.from_scratch(study)
            comparison.assert_equal_catalogues(study, again)
            violated = {
                name: rows for name, rows in run_checks(comparison.workspace(study).catalogue).items() if len(rows)
            }
            assert not violated

        def assert_documents(self, *, was_damaged: bool) -> None:
            """The documents are those of the files, and what left them has a tombstone."""
            catalogue = comparison.workspace(ground.study).catalogue
            found = set(query(catalogue, "select shard_id, document_id from documents").rows())
            shards = self.corpus.shards()
            assert found == {(shard, IDS[d]) for shard, held in shards.items() for d in held if d not in self.withdrawn}
            tombstones = query(catalogue, "from tombstones")
            left = set(tombstones.select("shard_id", "document_id").rows())
            # Where the damaged tables could not be read, nobody knows what had been in them.
            assert left <= self.tombstones.keys() if was_damaged else left == self.tombstones.keys()
            present = tombstones.filter(pl.col("shard_id").is_in(list(shards)))
            assert set(present["reason"]) <= {"asked for"}

        def assert_no_traces(self) -> None:
            """Of withdrawn documents no byte is left, nor of those of files that vanished."""
            shards = self.corpus.shards()
            gone = {document for document, places in self.corpus.places.items() if not places & shards.keys()}
            left = {document for held in shards.values() for document in held} - self.withdrawn
            tokens = tokens_of(ground.folder / "model")
            words = {WORDS[document]: tokens(WORDS[document]) for document in self.withdrawn | gone | left}
            found = comparison.traces(ground.study, words)
            assert [place for place, word in found if word in {WORDS[d] for d in self.withdrawn | gone}] == []
            for kind in ("array tokens", ".parquet", "table documents", "table sequences"):
                there = {word for place, word in found if kind in place}
                assert {WORDS[document] for document in left} <= there, "the search does not find what is there"

    return Edits


COMPLETE = """
with current as (select generation_id from generations where is_current)
select
    (select count(*) from current) = 1
    and (select count(*) from influence_scores where generation_id = (from current))
    = (select count(*) from sequences) * (select count(*) from queries)
"""


def damageable(store: Path) -> Iterator[Path]:
    """All that is written with a check of its own: every file but the lists and the locks."""
    for path in store.rglob("*"):
        if path.is_file() and path.stat().st_size and path.suffix != ".jsonl" and path.name != "influence_store.json":
            yield path


def flip(path: Path, place: float) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    bit = int(place * len(content) * 8)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def tokens_of(model: Path) -> Callable[[str], list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.slow
def test_any_sequence_of_edits_ends_as_a_build_from_scratch(ground: Ground) -> None:
    """One sequence, always the same."""
    try_sequences(ground, 1, is_random=False)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_200_random_sequences_of_edits_end_as_a_build_from_scratch(ground: Ground) -> None:
    """Each time others."""
    try_sequences(ground, 200, is_random=True)


def try_sequences(ground: Ground, count: int, *, is_random: bool) -> None:
    run_state_machine_as_test(
        machine(ground),
        settings=settings(
            max_examples=count,
            stateful_step_count=10,
            deadline=None,
            derandomize=not is_random,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
