-- What the file now holds.
-- grain: (study)
insert into catalogue by name
select
    $study as study,
    $schema_version as schema_version,
    $content_version as content_version,
    now() as loaded_at;
