-- critical_t(degrees): what a mean's standard error is multiplied by for its 95 % interval: the quantile at 0.975 of
-- Student's t with so many degrees of freedom, exact up to 30, and by its expansion around the Gaussian one beyond
-- (Abramowitz and Stegun 1964, 26.7.5).
-- grain: none; a number for each number of degrees
create macro critical_t(degrees) as case
    when degrees <= 30
        then [
            12.7062047362, 4.3026527297, 3.1824463053, 2.7764451052, 2.5705818356, 2.4469118511,
            2.3646242516, 2.3060041352, 2.2621571628, 2.2281388520, 2.2009851601, 2.1788128297,
            2.1603686565, 2.1447866879, 2.1314495456, 2.1199052992, 2.1098155778, 2.1009220402,
            2.0930240544, 2.0859634473, 2.0796138447, 2.0738730679, 2.0686576104, 2.0638985616,
            2.0595385528, 2.0555294386, 2.0518305165, 2.0484071418, 2.0452296421, 2.0422724563
        ][degrees]
    else
        1.9599639845
        + 2.3722712303 / degrees
        + 2.8224986157 / degrees ** 2
        + 2.5558496795 / degrees ** 3
        + 1.5895340534 / degrees ** 4
end;

comment on macro critical_t is -- noqa: PRS
'critical_t(degrees): what a mean''s standard error is multiplied by for its 95 % interval: the quantile at 0.975 of Student''s t with so many degrees of freedom, exact up to 30, and by its expansion around the Gaussian one beyond (Abramowitz and Stegun 1964, 26.7.5). grain: (none; a number for each number of degrees)';
