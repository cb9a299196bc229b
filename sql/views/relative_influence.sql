-- The scores of the current generation relative to how strongly a sequence, and a query, respond to anything (RelatIF).
-- Empty unless scores.self_influence is on.
-- grain: (query_id, sequence_id)
create view relative_influence as
select
    current_scores.query_id,
    current_scores.sequence_id,
    current_scores.influence_nats,
    self_influence.self_influence_nats,
    current_scores.influence_nats / nullif(sqrt(self_influence.self_influence_nats), 0) as l_relatif,
    current_scores.influence_nats
    / nullif(sqrt(self_influence.self_influence_nats) * sqrt(queries.self_influence_nats), 0) as cosine
from current_scores
inner join queries on current_scores.query_id = queries.query_id
inner join self_influence
    on
        current_scores.sequence_id = self_influence.sequence_id
        and current_scores.generation_id = self_influence.generation_id;

comment on view relative_influence is
'The scores of the current generation relative to how strongly a sequence, and a query, respond to anything (RelatIF). Empty unless scores.self_influence is on. grain: (query_id, sequence_id)';
comment on column relative_influence.query_id is 'The query; see queries.';
comment on column relative_influence.sequence_id is 'The training sequence; see sequences.';
comment on column relative_influence.influence_nats is 'The score, in nats, as in current_scores; positive helps.';
comment on column relative_influence.self_influence_nats is 'The sequence''s influence on itself; see self_influence.';
comment on column relative_influence.l_relatif is
'The score over the square root of the sequence''s influence on itself (l-RelatIF, Barshan et al. 2020), in the square root of a nat: of all sequences that change the corpus''s losses equally much, how much would this one help? Null if the sequence has no influence on itself.';
comment on column relative_influence.cosine is
'The score over the square roots of the sequence''s and the query''s influences on themselves: the cosine of their gradients in the metric of the damped inverse curvature, -1 to 1. Null if either is 0, or if the query''s is not stored.';
