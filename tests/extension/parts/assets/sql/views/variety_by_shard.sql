-- How varied the sequences of each shard are.
-- grain: (shard_id)
create view variety_by_shard as
select
    sequences.shard_id,
    count(*) as sequences,
    avg(token_varieties.entropy_bits) as mean_entropy_bits
from token_varieties
inner join sequences on token_varieties.sequence_id = sequences.sequence_id
group by sequences.shard_id;

comment on view variety_by_shard is 'How varied the sequences of each shard are. grain: (shard_id)';
comment on column variety_by_shard.shard_id is 'The shard; see shards.';
comment on column variety_by_shard.sequences is 'Its sequences.';
comment on column variety_by_shard.mean_entropy_bits is 'Mean entropy of their tokens, in bits.';
