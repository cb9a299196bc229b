"""Each check passes the good rows and returns a bad one that is put among them."""

import pytest
from sample_rows import rows_of

from influence_assets.engine.tombstones import VANISHED
from influence_assets.storage.catalogue.statements import statements

DOUBLED = {
    f"grain_of_{table}": [(f"insert into {table} select * from {table} limit 1", 1)] for table in statements("schema")
}
# check: [(statement that does the damage, how many rows the check then returns)]
DAMAGE = {
    **DOUBLED,
    "every_sequence_scored": [
        ("delete from influence_scores where query_key = hash('q1') and sequence_id = 2 and generation_id = 2", 1),
        ("insert into sequences values (9, 'b.jsonl', 1, 6, 'new', true, 4)", 2),
        ("insert into queries select * replace ('q3' as query_id, hash('q3') as query_key) from queries limit 1", 2),
        ("update generations set is_current = (generation_id = 1)", 2),
    ],
    "no_orphan_scores": [
        ("insert into influence_scores values (hash('none'), 1, 2, 1.0, 6)", 1),
        ("insert into method_scores values ('q1', 77, 2, 'gradient_dot', null, 1.0, 6)", 1),
        ("insert into method_scores values ('q1', 77, null, 'words', null, 1.0, 6)", 1),
        ("insert into method_part_scores values ('q1', 1, hash('d3'), 2, 'gradient_dot', null, 1.0, 6)", 1),
        ("insert into layer_influence values ('q1', 1, 3, 'h.0.mlp', 1.0, 6)", 1),
        ("insert into token_influence values ('q1', 77, 2, 0, 'x', 1.0, 6)", 1),
        ("insert into part_scores values (hash('q1'), 1, hash('d3'), 2, 1.0, 6)", 1),
        ("insert into self_influence values (77, 2, 1.0, 6)", 1),
        ("insert into self_influence_parts values (1, hash('d3'), 2, 1.0, 6)", 1),
        ("delete from sequences where sequence_id = 3", 2 * 4),
    ],
    "no_orphan_spans": [
        ("insert into sequence_documents values (77, 'd1', hash('d1'), 0, 6, 0, 9, 3)", 1),
        ("delete from documents where document_id = 'd2'", 2),
        ("update documents set shard_id = 'b.jsonl' where document_id = 'd1'", 1),
    ],
    "token_counts_agree": [
        ("update sequences set tokens = 7 where sequence_id = 1", 1),
        ("delete from sequence_documents where sequence_id = 2", 1),
        ("update sequence_documents set token_start = 5, token_end = 7 where sequence_id = 1 and token_start = 6", 1),
        ("update sequence_documents set token_start = 1, token_end = 7 where sequence_id = 2", 1),
    ],
    "layers_sum_to_score": [
        ("update layer_influence set influence_nats = 1.01 * influence_nats where query_id = 'q1'", 2),
        ("update layer_influence set influence_nats = -influence_nats where query_id = 'q2'", 1),
        ("delete from layer_influence where module_name = 'h.1.mlp' and query_id = 'q2'", 1),
        ("delete from influence_scores where query_key = hash('q2') and sequence_id = 1", 1),
        ("update layer_influence set influence_nats = 'nan' where query_id = 'q2' and module_name = 'h.0.mlp'", 1),
    ],
    "documents_sum_to_score": [
        ("update part_scores set influence_nats = 1.001 * influence_nats where query_key = hash('q2')", 1),
        ("update influence_scores set influence_nats = 3.9 where query_key = hash('q1') and sequence_id = 1", 2),
        ("delete from part_scores where query_key = hash('q2')", 1),
        ("delete from part_scores where query_key = hash('q2') and document_key = hash('d2')", 1),
        ("delete from influence_scores where query_key = hash('q2') and sequence_id = 1", 1),
        ("insert into part_scores values (hash('q1'), 2, hash('d2'), 2, -1.0, 6)", 1),  # it has one document
        ("insert into part_scores values (hash('q1'), 1, hash('d3'), 2, 0.0, 6)", 1),
        ("update part_scores set influence_nats = 'nan' where document_key = hash('d2') and generation_id = 1", 1),
    ],
    "tokens_sum_to_score": [
        ("update influence_scores set influence_nats = 'nan' where query_key = hash('q2') and sequence_id = 1", 1),
        (
            "update influence_scores set influence_nats = 'nan' where sequence_id = 2;"
            "update influence_scores set influence_nats = 3.9 where query_key = hash('q1') and sequence_id = 1",
            2,  # another sequence's NaN does not raise the floor; generation 1's score is wrong then, too
        ),
        ("update token_influence set influence_nats = 1.01 * influence_nats where query_id = 'q1'", 2),
        ("delete from token_influence where token = 'Ada' and query_id = 'q2'", 1),
        ("update influence_scores set influence_nats = 3.9 where query_key = hash('q1') and generation_id = 2", 1),
    ],
    "scores_are_finite": [
        ("update influence_scores set influence_nats = 'nan' where query_key = hash('q2') and sequence_id = 1", 1),
        ("update method_scores set score = '-inf' where query_id = 'q2' and sequence_id = 1", 1),
        ("update method_part_scores set score = 'nan' where query_id = 'q1'", 2),
        ("update part_scores set influence_nats = 'inf' where query_key = hash('q2')", 2),
        ("update group_scores set score = 'nan' where group_name = 'CC-BY'", 2),
        ("update self_influence set self_influence_nats = 'inf' where sequence_id = 3", 2),
        ("update self_influence_parts set self_influence_nats = 'nan' where document_key = hash('d2')", 2),
        ("update layer_influence set influence_nats = 'inf' where query_id = 'q2'", 2),
        ("update token_influence set influence_nats = 'nan' where query_id = 'q2'", 2),
    ],
    "one_generation_of_each_member": [
        ("update generations set member = 1", 1),
        ("update generations set member = generation_id; insert into generations from generations limit 1", 1),
    ],
    "one_current_generation": [
        ("update generations set is_current = true", 1),
        ("update generations set is_current = false", 1),
    ],
    "no_withdrawn_document_is_loaded": [
        (
            "insert into tombstones values ('z.jsonl', 'd3', 'asked for', now())",
            2,
        ),  # withdrawn anywhere, in b.jsonl too
        ("insert into tombstones values ('b.jsonl', 'd3', 'its source file vanished', now())", 2),
        (
            "delete from documents where document_id = 'd2';"
            "insert into tombstones values ('a.jsonl', 'd2', 'asked for', now())",
            1,  # two spans of one shard
        ),
        (
            "delete from sequence_documents where document_id = 'd3';"
            "insert into tombstones select s, 'd3', 'asked for', now() from (values ('b.jsonl'), ('z')) as t (s)",
            1,
        ),
    ],
    "lineage_complete": [
        ("delete from materializations where materialization_id = 7", 1),
        ("delete from materializations where materialization_id = 102", 1),  # three steps from a score
        ("update materializations set code_version = '' where materialization_id = 8", 1),  # of the generation before
        ("delete from materialization_inputs where materialization_id = 8", 1),
        ("update materializations set run_id = null where materialization_id = 6", 1),
        ("update materializations set code_version = '' where materialization_id = 6", 1),
        ("update generations set weights_hash = '' where generation_id = 2", 1),
        ("delete from generations where generation_id = 1", 1),
        ("delete from documents where document_id = 'd3'", 1),
        ("delete from sequence_documents where sequence_id = 2", 1),
        ("delete from shards where shard_id = 'b.jsonl'", 1),
    ],
}


def test_every_check_is_tried():
    assert DAMAGE.keys() == statements("checks").keys()


@pytest.mark.parametrize("name", statements("checks"))
def test_good_rows_pass(catalogue, name):
    assert rows_of(catalogue, statements("checks")[name].sql) == []


@pytest.mark.parametrize("name", statements("checks"))
def test_an_empty_catalogue_passes(catalogue, name):
    for table in statements("schema"):
        catalogue.execute(f"delete from {table}").complete()
    assert rows_of(catalogue, statements("checks")[name].sql) == []


@pytest.mark.parametrize(("name", "damage", "violations"), [(n, *d) for n, each in DAMAGE.items() for d in each])
def test_a_bad_row_is_caught(catalogue, name, damage, violations):
    catalogue.execute(damage).complete()
    assert len(rows_of(catalogue, statements("checks")[name].sql)) == violations


@pytest.mark.parametrize("part", ["layer", "token"])
def test_rounding_is_no_violation(catalogue, part):
    """A relative difference of 1e-5 is rounding for float32 passes, and a fault for float64 ones."""
    catalogue.execute(f"update {part}_influence set influence_nats = 1.00001 * influence_nats").complete()
    check = statements("checks")[f"{part}s_sum_to_score"].sql
    assert rows_of(catalogue, check) == []
    catalogue.execute("update generations set dtype = 'float64'").complete()
    assert len(rows_of(catalogue, check)) == 3


def test_a_score_that_is_all_but_zero_may_differ_by_a_millionth_of_the_largest(catalogue):
    catalogue.execute(
        "insert into sequences values (4, 'b.jsonl', 1, 6, 'x', true, 4);"
        "insert into influence_scores values (hash('q1'), 4, 2, 0.0, 7);"
        "insert into layer_influence values ('q1', 4, 2, 'h.0.mlp', 3e-6, 9)"
    ).complete()
    check = statements("checks")["layers_sum_to_score"].sql
    assert rows_of(catalogue, check) == []  # the query's largest is 4
    catalogue.execute("update layer_influence set influence_nats = 5e-6 where sequence_id = 4").complete()
    assert [row["sequence_id"] for row in rows_of(catalogue, check)] == [4]


def test_a_vanished_files_document_may_be_in_another_shard(catalogue):
    """The mark of a vanished file is the pipeline's; a check that expects another one would forbid every copy."""
    catalogue.execute(
        "delete from tombstones; insert into tombstones values ('z.jsonl', 'd3', $reason, now())", {"reason": VANISHED}
    ).complete()
    assert rows_of(catalogue, statements("checks")["no_withdrawn_document_is_loaded"].sql) == []


def test_what_is_unscored_is_named(catalogue):
    catalogue.execute("delete from influence_scores where query_key = hash('q2') and sequence_id = 3").complete()
    assert rows_of(catalogue, statements("checks")["every_sequence_scored"].sql) == [
        {"query_id": "q2", "shard_id": "b.jsonl", "sequences": 1, "scored_sequences": 0}
    ]
