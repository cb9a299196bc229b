-- calibrated(score, sigma, c): the score S with its noise shrunk: S² / (S + c·sigma), and 0 where S is not positive.
-- With c = 10 a score of ten sigmas keeps half of itself, one of a single sigma an eleventh. If sigma is 0, this is the
-- positive part of S; null if sigma is not known or S is not finite. The view calibration has the study's c, which the
-- views use.
-- grain: none; a number for each score
create macro calibrated(score, sigma, c := 10) as case
    when isfinite(score) and sigma is not null
        then case when score > 0 then score * (score / (score + c * sigma)) else 0.0 end
end;

comment on macro calibrated is -- noqa: PRS
'calibrated(score, sigma, c): the score S with its noise shrunk: S² / (S + c·sigma), and 0 where S is not positive. With c = 10 a score of ten sigmas keeps half of itself, one of a single sigma an eleventh. If sigma is 0, this is the positive part of S; null if sigma is not known or S is not finite. The view calibration has the study''s c, which the views use. grain: (none; a number for each score)';
