-- noise_sigma(score): the standard deviation of the noise among a query's scores: the median of |score − median|, over
-- 0.6745, which is the standard deviation where scores are Gaussian and heeds neither sign nor size of the few that are
-- large. Scores that are not finite are left out. Null for fewer than 20 scores, from which it is not known; 0 if more
-- than half of them are equal.
-- grain: none; a number for all scores together
create macro noise_sigma(score) as case
    when count(*) filter (where isfinite(score)) >= 20
        then mad(score) filter (where isfinite(score)) / 0.6745
end;

comment on macro noise_sigma is -- noqa: PRS
'noise_sigma(score): the standard deviation of the noise among a query''s scores: the median of |score − median|, over 0.6745, which is the standard deviation where scores are Gaussian and heeds neither sign nor size of the few that are large. Scores that are not finite are left out. Null for fewer than 20 scores, from which it is not known; 0 if more than half of them are equal. grain: (none; a number for all scores together)';
