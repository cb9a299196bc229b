-- The row that describes the file (new_catalogue, registered by the loader).
-- grain: (study)
insert into catalogue by name
select
    study,
    schema_version,
    content_version,
    states_version,
    has_holes,
    now() as loaded_at
from new_catalogue;
