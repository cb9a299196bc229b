-- noise_threshold(median, sigma, scores): what a score must exceed to stand above the noise: sigma · sqrt(2 ln n) more
-- than 0 and than the median, where n is the number of scores. Of n independent Gaussian scores, 1 / sqrt(4π ln n) at
-- most are expected above it, which is less than one and falls as n grows (Donoho and Johnstone 1994).
-- grain: none; a number for all scores together
create macro noise_threshold(median, sigma, scores) as greatest(median, 0) + sigma * sqrt(2 * ln(scores));

comment on macro noise_threshold is -- noqa: PRS
'noise_threshold(median, sigma, scores): what a score must exceed to stand above the noise: sigma · sqrt(2 ln n) more than 0 and than the median, where n is the number of scores. Of n independent Gaussian scores, 1 / sqrt(4π ln n) at most are expected above it, which is less than one and falls as n grows (Donoho and Johnstone 1994). grain: (none; a number for all scores together)';
