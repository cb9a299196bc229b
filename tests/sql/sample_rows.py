"""A small catalogue made by hand, good in every respect, whose answers are known."""

import duckdb

from influence_assets.storage.catalogue.statements import statements

# Sequence 1 is three quarters document d1 and one quarter d2; sequence 2 is d2; sequence 3, of another shard, is d3.
# The parts of sequence 1 are not the documents' shares of its tokens, and have opposite signs.
# Generation 2 is current; generation 1 has other scores.
ROWS = """
insert into catalogue values ('topics', 's', 'c', 'p', false, now());
insert into generations by name
select
    range as generation_id, 'w' || range as weights_hash, 'm' as model_path, 't' as tokenizer_hash,
    'float32' as dtype, 'true' as fisher, 0.1 as damping_scale, 8 as sequence_length_tokens,
    3 as training_sequences, 20 as training_tokens, 5 as attributed_parameters, 9 as total_parameters,
    now() as created_at, range = 2 as is_current, 0 as member, 10 as materialization_id
from range(1, 3);
insert into modules
select generation_id, name, 4, 2, true, 8, 0.5, 0.05, 20, 3, 10
from generations, (values ('h.0.mlp'), ('h.1.mlp')) as modules (name);
insert into shards values
('a.jsonl', '/corpus/a.jsonl', 1, 10, 'ha', 2, 0, 1, 1, 30, 1),
('b.jsonl', '/corpus/b.jsonl', 1, 10, 'hb', 1, 0, 0, 0, 9, 2);
insert into skipped_rows values ('a.jsonl', 4, 'is not JSON (Expecting value at column 1)', 1);
insert into documents values
('d1', hash('d1'), 'a.jsonl', 1, 'x1', 'One', 'wiki', 'CC-BY', 'Ann', '2024', null, '{"k": 1}', 15, 'while', true, 1),
('d2', hash('d2'), 'a.jsonl', 2, null, null, 'wiki', 'MIT', 'Bob', null, null, null, 15, 'for', true, 1),
('d3', hash('d3'), 'b.jsonl', 1, 'x3', 'Three', null, null, null, null, null, null, 9, 'if', true, 2);
insert into trained_documents select document_id, document_key, 11 from documents;
insert into sequences values
(1, 'a.jsonl', 0, 8, 'Ada said while', true, 3), (2, 'a.jsonl', 1, 6, 'for', true, 3),
(3, 'b.jsonl', 0, 6, 'if', true, 4);
insert into sequence_documents values
(1, 'd1', hash('d1'), 0, 6, 0, 15, 3), (1, 'd2', hash('d2'), 6, 8, 0, 3, 3),
(2, 'd2', hash('d2'), 0, 6, 3, 15, 3), (3, 'd3', hash('d3'), 0, 6, 0, 9, 4);
insert into queries values
('q1', hash('q1'), 'q.jsonl', 1, 'p1', 'c1', '{"topic": "loops"}', 2, 1, -1.5, 3.0, 0.0, 4.0, 5),
('q2', hash('q2'), 'q.jsonl', 2, 'p2', 'c2', null, 2, 1, -2.5, 3.0, 0.0, null, 5);
create temp table scored as
select *
from (
    values
    ('q1', 1, 2, 4.0, 6), ('q1', 2, 2, -1.0, 6), ('q1', 3, 2, 1.0, 7),
    ('q2', 1, 2, -3.0, 6), ('q2', 2, 2, -2.0, 6), ('q2', 3, 2, -1.0, 7),
    ('q1', 1, 1, 99.0, 8), ('q1', 2, 1, 98.0, 8), ('q1', 3, 1, 97.0, 8)
) as scores (query_id, sequence_id, generation_id, influence_nats, materialization_id);
insert into influence_scores select hash(query_id), * exclude (query_id) from scored;
insert into part_scores values
(hash('q1'), 1, hash('d1'), 2, 4.5, 6), (hash('q1'), 1, hash('d2'), 2, -0.5, 6),
(hash('q2'), 1, hash('d1'), 2, -3.5, 6), (hash('q2'), 1, hash('d2'), 2, 0.5, 6),
(hash('q1'), 1, hash('d1'), 1, 60.0, 8), (hash('q1'), 1, hash('d2'), 1, 39.0, 8);
insert into self_influence values
(1, 2, 5.0, 6), (2, 2, 3.0, 6), (3, 2, 1.0, 7), (1, 1, 90.0, 8), (2, 1, 80.0, 8), (3, 1, 70.0, 8);
insert into self_influence_parts values
(1, hash('d1'), 2, 4.0, 6), (1, hash('d2'), 2, 0.5, 6), (1, hash('d1'), 1, 50.0, 8), (1, hash('d2'), 1, 40.0, 8);
insert into method_scores
select query_id, sequence_id, generation_id, 'gradient_dot', null, 10 * influence_nats, materialization_id
from scored;
insert into solver_residuals
select query_id, 'conjugate_gradients', iteration, iteration, 3, 1 / iteration, -iteration, 5
from queries, range(1, 3) as iterations (iteration);
insert into method_part_scores values
('q1', 1, hash('d1'), 2, 'gradient_dot', null, 45.0, 6), ('q1', 1, hash('d2'), 2, 'gradient_dot', null, -5.0, 6);
insert into outcomes
select subset, seed, query_id, subset - seed, 12
from range(2) as subsets (subset), range(1, 3) as seeds (seed), queries;
insert into evaluations values
('ekfac', 'lds', null, 0.6, 0.5, 0.7, 2, 2, 2, 13), ('ekfac', 'lds', 'q.jsonl', 0.6, 0.5, 0.7, 2, 2, 2, 13),
('retraining', 'lds', null, 0.8, 0.7, 0.9, 2, 2, 2, 13);
insert into evaluations_by_query select 'ekfac', query_id, 0.6, 13 from queries;
insert into fitted_calibration values (10.0, 2, 2, 13);
insert into removal_outcomes
select method, 0, if(method = 'random', null, 'q1'), 1, query_id, -3, 14
from queries, (values ('random'), ('ekfac')) as methods (method);
insert into group_scores values
('leave_one_out', 'nats', 'licence', 'CC-BY', 'q1', 3.0, 0.5, 4, 15),
('leave_one_out', 'nats', 'licence', 'MIT', 'q1', -0.5, 0.5, 4, 15),
('leave_one_out', 'nats', 'licence', 'CC-BY', 'q2', -2.0, 0.5, 4, 15),
('data_shapley', 'nats', 'source', 'wiki', 'q1', 5.0, null, 3, 16);
insert into layer_influence
select query_id, sequence_id, generation_id, name, share * influence_nats, 9
from scored, (values ('h.0.mlp', 1.5), ('h.1.mlp', -0.5)) as parts (name, share)
where sequence_id = 1;
insert into token_influence
select query_id, sequence_id, generation_id, position, token, share * influence_nats, 9
from scored, (values (0, 'Ada', 0.25), (1, ' said', 0.75)) as parts (position, token, share)
where sequence_id = 1;
insert into materializations
select
    id, asset, partition, 'v' || id, '1', 'run-' || id, 'host', null,
    timestamptz '2026-01-02 23:30:00+00' + to_hours(id // 100), id, if(id < 100, 0.5, null), id * 10, id, 1, '{}',
    content_hash,
    asset in ('documents', 'token_sequences', 'covariances', 'influence_scores', 'influence_details'), id < 100
from (
    values
    (1, 'documents', 'a.jsonl', 'ha'), (2, 'documents', 'b.jsonl', 'hb'), (3, 'token_sequences', 'a.jsonl', null),
    (4, 'token_sequences', 'b.jsonl', null), (5, 'query_gradients', 'q.jsonl', null),
    (6, 'influence_scores', 'q.jsonl|a.jsonl', null), (7, 'influence_scores', 'q.jsonl|b.jsonl', null),
    (8, 'influence_scores', 'old', null), (9, 'influence_details', 'q.jsonl', null), (10, 'curvature', null, null),
    (101, 'eigenbases', null, null), (102, 'covariances', 'a.jsonl', null), (103, 'language_model', null, 'weights')
) as made (id, asset, partition, content_hash);
insert into materialization_inputs
select made.materialization_id, used.materialization_id, used.asset, used.partition, used.data_version
from (
    values
    (3, 1), (3, 103), (4, 2), (4, 103), (5, 10), (5, 103), (6, 3), (6, 5), (7, 4), (7, 5), (8, 3), (8, 5), (9, 6),
    (9, 7), (10, 101), (101, 102), (102, 3), (102, 103)
) as edges (id, used)
inner join materializations as made on edges.id = made.materialization_id
inner join materializations as used on edges.used = used.materialization_id;
insert into tombstones values
('a.jsonl', 'd4', 'asked for', timestamptz '2026-02-03 00:00:00+00'),
('z.jsonl', 'd1', 'its source file vanished', timestamptz '2026-02-04 00:00:00+00');
insert into partition_states values
('documents', 'a.jsonl', 'standing', 'v1', 'v1', null), ('documents', 'b.jsonl', 'stale', 'v3', 'v2', 'changed'),
('documents', 'c.jsonl', 'missing', 'v4', null, 'new'), ('documents', 'd.jsonl', 'missing', 'v5', null, 'new'),
('curvature', null, 'waiting', null, 'v10', 'documents are missing');
insert into layer_drift values
(2, 'h.0.mlp', 'A', 0.2, 0.1, 2, 1, 10), (2, 'h.0.mlp', 'S', 0.05, 0.1, 2, 1, 10),
(2, 'h.1.mlp', 'eigenvalues', 0.3, null, 2, 1, 10);
"""

# The first query's scores by two further members of an ensemble: of sequence 2, the second one has none yet.
ENSEMBLE = """
insert into generations
select generations.* replace (10 + number as generation_id, number as member, false as is_current)
from generations, (values (1), (2)) as further (number)
where generations.is_current;
insert into influence_scores values
(hash('q1'), 1, 11, 5.0, 6), (hash('q1'), 1, 12, 4.5, 6),
(hash('q1'), 2, 11, 1.0, 6),
(hash('q1'), 3, 11, -3.0, 6), (hash('q1'), 3, 12, 2.0, 6);
insert into part_scores values
(hash('q1'), 1, hash('d1'), 11, 4.0, 6), (hash('q1'), 1, hash('d2'), 11, 1.0, 6),
(hash('q1'), 1, hash('d1'), 12, 5.0, 6), (hash('q1'), 1, hash('d2'), 12, -0.5, 6);
insert into self_influence values
(1, 11, 6.0, 6), (1, 12, 7.0, 6), (2, 11, 2.0, 6), (3, 11, 3.0, 6), (3, 12, 2.0, 6);
insert into self_influence_parts values
(1, hash('d1'), 11, 6.0, 6), (1, hash('d2'), 11, 1.5, 6), (1, hash('d1'), 12, 5.0, 6), (1, hash('d2'), 12, 1.0, 6);
"""


def build():
    """A connection to the sample, in memory."""
    connection = duckdb.connect()
    for kind in ("schema", "views"):
        for statement in statements(kind).values():
            connection.execute(statement.sql).complete()
    connection.execute(ROWS).complete()
    return connection


def rows_of(connection, sql, parameters=None):
    """The answer as a list of dictionaries."""
    return connection.sql(sql, params=parameters).pl().to_dicts()
