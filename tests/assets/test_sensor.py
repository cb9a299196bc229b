"""The sensor that makes partitions of files."""

from tests import studies


def keys(located, name):
    return located.instance.get_dynamic_partitions(f"{studies.NAME}_{name}")


def test_source_and_query_files_become_partitions_once(located):
    assert located.sense().dynamic_partitions_requests
    assert keys(located, "shards") == list(studies.SHARDS)
    assert keys(located, "query_sets") == list(studies.QUERY_SETS)
    tick = located.sense()
    assert not tick.dynamic_partitions_requests
    assert tick.skip_message.startswith("No new file in ")


def test_new_files_are_added_to_those_there_are(located):
    located.sense()
    studies.write_extra(located.path)
    studies.write_jsonl(located.path.parent / "queries" / "third.jsonl", studies.SECOND_ROWS)
    (located.path.parent / "corpus" / "notes.docx").write_bytes(b"no corpus file")
    tick = located.sense()
    added = {request.partitions_def_name: request.partition_keys for request in tick.dynamic_partitions_requests}
    assert added == {"tiny_shards": [studies.EXTRA], "tiny_query_sets": ["third.jsonl"]}


def test_the_keys_of_vanished_files_stay(located):
    """Deleting a dynamic key breaks what Dagster shows of the partitions that it had."""
    located.sense()
    (located.path.parent / "corpus" / studies.TRADES).unlink()
    assert not located.sense().dynamic_partitions_requests
    assert keys(located, "shards") == list(studies.SHARDS)


def test_a_broken_folder_skips_the_tick_and_says_why(located):
    (located.path.parent / "corpus" / "a|b.txt").write_text("text")
    tick = located.sense()
    assert not tick.dynamic_partitions_requests
    assert "'a|b.txt': the name contains '|'. Rename the file" in tick.skip_message
    (located.path.parent / "corpus").rename(located.path.parent / "elsewhere")
    assert "corpus: no such folder. Set corpus.path" in located.sense().skip_message
