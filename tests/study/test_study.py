"""study.yaml: what is refused and how that is said, what is taken, and that its documentation is true."""

import itertools
import json
import math
import os
import pickle
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from influence_assets.cli.example import EXAMPLE, write_example
from influence_assets.cli.study_template import commented, reference
from influence_assets.errors import InputError
from influence_assets.extensions import extension_folders
from influence_assets.study import LARGEST_SEED, SEEDS_APART, Study, Tuning

SECTIONS = [
    "name", "corpus", "model", "queries", "sequences", "curvature", "scores", "sketches", "storage", "compute",
    "automation", "lineage", "extensions",
]  # fmt: skip


def smallest():
    return {"name": "wiki", "corpus": {"path": "c"}, "model": {"path": "m"}, "queries": {"path": "q"}}


def written(folder, described):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    return path


def with_value(key, value):
    """The smallest study with one key, given by its path, set."""
    described = smallest()
    section = described
    *above, last = key.split(".")
    for part in above:
        section = section.setdefault(part, {})
    section[last] = value
    if key.startswith("model.train"):
        del described["model"]["path"]
    return described


REFUSED = [
    ("name", "Wiki", "pattern"),
    ("name", "9lives", "pattern"),
    ("name", "a-b", "pattern"),
    ("name", "", "pattern"),
    ("name", "a" * 64, "pattern"),
    ("name", 7, "valid string"),
    ("corpus", None, "valid dictionary"),
    ("corpus", "folder", "valid dictionary"),
    ("corpus.path", "", "at least 1 character"),
    ("corpus.path", None, "valid string"),
    ("corpus.text_column", ["text"], "valid string"),
    ("corpus.id_column", 3, "valid string"),
    ("corpus.max_document_bytes", 0, "greater than or equal to 1"),
    ("corpus.special_tokens", "split", "'text' or 'parse'"),
    ("corpus.loss_on", "completion", "'answers' or 'all'"),
    ("corpus.on_bad_row", "drop", "'refuse' or 'skip'"),
    ("model", "gpt2", "valid dictionary"),
    ("corpus.shard_bytes", 0, "greater than or equal to 1"),
    ("corpus.withdrawn", "", "at least 1 character"),
    ("corpus.withdrawn", "s3://bucket/withdrawn.txt", "must be a local file"),
    ("lineage.openlineage_url", "localhost:5000", "pattern"),
    ("model.path", "", "at least 1 character"),
    ("model.revision", "", "at least 1 character"),
    ("model.adapter", "", "at least 1 character"),
    ("model.optimizer", "", "at least 1 character"),
    ("model.optimizer", "s3://bucket/optimizer.pt", "must be a local file"),
    ("model.tuned", "base", "valid dictionary"),
    ("model.tuned.base", "", "at least 1 character"),
    ("model.tuned.revision", "", "at least 1 character"),
    ("model.tuned.epochs", 0, "greater than or equal to 1"),
    ("model.tuned.batch_sequences", 0, "greater than or equal to 1"),
    ("model.tuned.learning_rate", 0, "greater than 0"),
    ("model.tuned.seed", -1, "greater than or equal to 0"),
    ("model.adapter_attribution", "both", "'adapter' or 'merged'"),
    ("model.dtype", "float16", "'float32', 'bfloat16' or 'float64'"),
    ("model.trust_remote_code", "perhaps", "valid boolean"),
    ("model.device_map", "cpu", "'auto'"),
    ("model.train", True, "valid dictionary"),
    ("model.train.layers", 0, "greater than or equal to 1"),
    ("model.train.width", 4, "greater than or equal to 8"),
    ("model.train.heads", 0, "greater than or equal to 1"),
    ("model.train.vocabulary", 256, "greater than or equal to 257"),
    ("model.train.epochs", 0, "greater than or equal to 1"),
    ("model.train.batch_sequences", 0, "greater than or equal to 1"),
    ("model.train.learning_rate", 0, "greater than 0"),
    ("model.train.learning_rate", math.inf, "finite"),
    ("model.train.seed", -1, "greater than or equal to 0"),
    ("model.train.members", 0, "greater than or equal to 1"),
    ("model.members", "folder", "valid list"),
    ("queries.path", "", "at least 1 character"),
    ("queries.special_tokens", True, "'text' or 'parse'"),
    ("sequences.length", 1, "greater than or equal to 2"),
    ("sequences.length", "long", "valid integer"),
    ("sequences.length", 64.5, "valid integer"),
    ("sequences.length", None, "valid integer"),
    ("sequences.packing", "padded", "'packed' or 'one_document'"),
    ("sequences.documents_see_each_other", "sometimes", "valid boolean"),
    ("sequences.separator", 0, "valid string"),
    ("sequences.prefix", "<s>", "valid list"),
    ("sequences.prefix.0", [1], "valid string"),
    ("curvature.modules", "attention", "'mlp', 'linear', 'mlp+embedding', 'linear+embedding' or 'embedding'"),
    ("curvature.modules", "attention", "valid list"),
    ("curvature.modules", [], "at least 1 item"),
    ("curvature.modules", 5, "'linear+embedding' or 'embedding'"),
    ("curvature.modules.1", ["*.mlp.*", 3], "valid string"),
    ("curvature.fisher", "sampled", "'true' or 'empirical'"),
    ("curvature.fisher", False, "'true' or 'empirical'"),
    ("curvature.fit_sequences", 0, "greater than or equal to 1"),
    ("curvature.fit_sequences", "all", "valid integer"),
    ("queries.rank", 0, "greater than or equal to 1"),
    ("queries.rank", "full", "valid integer"),
    ("curvature.damping_scale", 0, "greater than 0"),
    ("curvature.damping_scale", -0.1, "greater than 0"),
    ("curvature.damping_scale", math.nan, "finite"),
    ("curvature.damping_scale", math.inf, "finite"),
    ("curvature.blocks", 0, "greater than or equal to 1"),
    ("curvature.rank", -1, "greater than or equal to 0"),
    ("curvature.drift_threshold", 0, "greater than 0"),
    ("curvature.drift_threshold", math.inf, "finite"),
    ("curvature.new_generation", "always", "'propose' or 'automatic'"),
    ("curvature.seed", -1, "greater than or equal to 0"),
    ("curvature.seed", 2**63, "less than or equal to"),
    ("scores.details_per_query", -1, "greater than or equal to 0"),
    ("methods", "gradient_dot", "valid list"),
    ("methods", [], "at least 1 item"),
    ("methods.0", [3], "valid string"),
    ("method_options", [3], "valid dictionary"),
    ("scores.self_influence", "perhaps", "valid boolean"),
    ("sketches.coordinates", 7, "greater than or equal to 8"),
    ("evaluation.subsets", 3, "greater than or equal to 4"),
    ("evaluation.seeds", 0, "greater than or equal to 1"),
    ("evaluation.share", 1, "less than 1"),
    ("evaluation.by", "", "at least 1 character"),
    ("evaluation.seed", -1, "greater than or equal to 0"),
    ("evaluation.removal_queries", 0, "greater than or equal to 1"),
    ("evaluation.removal_share", 0, "greater than 0"),
    ("evaluation.random_removals", 1, "greater than or equal to 2"),
    ("evaluation.keep_weights", "perhaps", "valid boolean"),
    ("storage.root", "", "at least 1 character"),
    ("compute.device", "gpu", "cuda"),
    ("compute.batch_sequences", 0, "greater than or equal to 1"),
    ("compute.memory_bytes", 1000, "greater than or equal to 268435456"),
    ("compute.executor", 2, "valid string"),
    ("automation.enabled", "sometimes", "valid boolean"),
    ("automation.interval_seconds", 0, "greater than or equal to 1"),
    ("automation.owners", "me", "valid list"),
    ("automation.owners.0", ["me"], "pattern"),
    ("extensions", "folder", "valid list"),
    ("extensions.0", [""], "at least 1 character"),
]


@pytest.mark.parametrize(("key", "value", "allowed"), REFUSED)
def test_an_impossible_value_is_refused_with_its_key_and_what_is_allowed(tmp_path, key, value, allowed):
    written_at = key.removesuffix(".0").removesuffix(".1")
    path = written(tmp_path, with_value(written_at, value))
    with pytest.raises(InputError) as refused:
        Study.load(path)
    assert refused.value.where == str(path)
    assert f"`{key}` = " in refused.value.problem
    assert allowed in refused.value.problem
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("curvature.modules", [1], ["0"]),
        ("curvature.modules", [1, "*.mlp.*", None], ["0", "2"]),
        ("curvature.modules", [["*.mlp.*"]], ["0"]),
        ("methods", [3], ["0"]),
        ("automation.owners", ["me"], ["0"]),
        ("extensions", [1, ""], ["0", "1"]),
    ],
)
def test_a_wrong_item_is_named_and_not_the_list_that_holds_it(tmp_path, key, value, wrong):
    with pytest.raises(InputError) as refused:
        Study.load(written(tmp_path, with_value(key, value)))
    assert re.findall(r"`([\w.]+)` = ", refused.value.problem) == [f"{key}.{number}" for number in wrong]
    assert "not 0" not in refused.value.problem


def test_every_key_is_tried_with_an_impossible_value():
    """A key added to the study must be added above; `name` and paths included."""
    tried = {key.removesuffix(".0").removesuffix(".1") for key, _, _ in REFUSED}
    documented = set(re.findall(r"^\| `([\w.]+)` \|", reference(), re.MULTILINE))
    assert documented <= tried


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("corpora", SECTIONS),
        ("corpus.folder", ["path", "text_column", "id_column", "max_document_bytes"]),
        ("curvature.damping", ["modules", "fisher", "fit_sequences", "damping_scale", "seed"]),
        ("model.train.layer", ["layers", "width", "heads"]),
        ("storage.path", ["root"]),
    ],
)
def test_an_unknown_key_is_refused_with_the_keys_that_there_are(tmp_path, key, allowed):
    with pytest.raises(InputError) as refused:
        Study.load(written(tmp_path, with_value(key, {})))
    assert f"`{key}` is not a key of a study" in refused.value.problem
    listed = re.search(r"allowed here: ([^)]*)", refused.value.problem)
    assert set(allowed) <= set(listed.group(1).split(", "))


@pytest.mark.parametrize("key", ["name", "corpus", "model", "queries"])
def test_a_missing_key_is_named(tmp_path, key):
    described = smallest()
    del described[key]
    with pytest.raises(InputError, match=f"`{key}` is missing"):
        Study.load(written(tmp_path, described))


def test_all_wrong_keys_are_named_at_once(tmp_path):
    described = smallest() | {"sequences": {"length": 0}, "compute": {"devise": "cpu"}, "corpus": {}}
    with pytest.raises(InputError) as refused:
        Study.load(written(tmp_path, described))
    for key in ("sequences.length", "compute.devise", "corpus.path"):
        assert f"`{key}`" in refused.value.problem


@pytest.mark.parametrize("model", [{"path": "m", "train": {}}, {}, {"train": None}])
def test_a_model_is_either_brought_or_trained(tmp_path, model):
    with pytest.raises(InputError, match=r"`model` = .*exactly one of `path` and `train`"):
        Study.load(written(tmp_path, smallest() | {"model": model}))


def test_members_of_a_trained_ensemble_differ_in_their_seed_alone(tmp_path):
    described = with_value("model.train", {"seed": LARGEST_SEED - SEEDS_APART, "members": 4})
    described["methods"] = ["ekfac", "gradient_dot"]
    study = Study.load(written(tmp_path, described))
    seeds = [member.model.train.seed for member in study.members]
    assert seeds == [LARGEST_SEED, SEEDS_APART - 1, 2 * SEEDS_APART - 1]
    for number, member in enumerate(study.members, start=1):
        assert (member.number, member.first, member.members) == (number, study, ())
        train = study.model.train.model_copy(update={"seed": seeds[number - 1], "members": 1})
        model = study.model.model_copy(update={"train": train})
        assert member.model_dump() == study.model_copy(update={"model": model, "methods": ("ekfac",)}).model_dump()
        sent = pickle.loads(pickle.dumps(member))  # as to another process
        assert (sent, sent.number, sent.first) == (member, number, study)
    assert (study.number, study.first) == (0, None)


def test_the_older_list_of_baselines_is_read_as_methods(tmp_path):
    described = with_value("scores", {"baselines": ["gradient_dot"], "details_per_query": 3})
    study = Study.load(written(tmp_path, described))
    assert study.methods == ("ekfac", "gradient_dot")
    assert study.scores.details_per_query == 3
    with pytest.raises(InputError, match=r"`scores.baselines` is the older form of `methods`"):
        Study.load(written(tmp_path, described | {"methods": ["ekfac"]}))


def test_members_that_are_brought_have_paths_of_their_own(tmp_path):
    (tmp_path / "other").mkdir()
    described = with_value("model", {"path": "m", "revision": "main", "members": ["other", "ada/lovelace"]})
    study = Study.load(written(tmp_path, described))
    assert [member.model.path for member in study.members] == [str(tmp_path / "other"), "ada/lovelace"]
    assert [member.model.revision for member in study.members] == [None, None]
    described["storage"] = {"root": "other/store"}
    with pytest.raises(InputError, match=r"model\.members\.0"):
        Study.load(written(tmp_path, described))


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"train": {}, "members": ["m"]}, "belongs to the model in `path`"),
        ({"path": "m", "members": ["m"]}, "names a model twice"),
        ({"path": "m", "members": ["n", "n"]}, "names a model twice"),
    ],
)
def test_ensembles_that_cannot_be(tmp_path, model, problem):
    with pytest.raises(InputError, match=problem):
        Study.load(written(tmp_path, smallest() | {"model": model}))


def test_heads_divide_the_width(tmp_path):
    with pytest.raises(InputError, match=r"`model.train` = .*width 30 is not a multiple of heads 4"):
        Study.load(written(tmp_path, with_value("model.train", {"width": 30})))


def test_what_is_no_study_is_refused(tmp_path):
    path = tmp_path / "study.yaml"
    with pytest.raises(InputError, match=r"no such study.*influence init"):
        Study.load(path)
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        Study.load(path)
    path.write_text("name: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"is not YAML .*line 1"):
        Study.load(path)
    for text in ("", "- a list", "just text"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="not a mapping"):
            Study.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        Study.load(tmp_path)


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to(os.devnull), Path.mkdir])
def test_a_study_that_is_not_a_regular_file_is_refused_without_waiting_for_it(tmp_path, put):
    put(tmp_path / "study.yaml")
    with pytest.raises(InputError, match=r"not a regular file.*A study is a UTF-8 YAML file"):
        Study.load(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("text", "key", "first", "second"),
    [
        ("name: wiki\nname: other\n", "name", 1, 2),
        ("corpus:\n  path: c\n  text_column: t\n  path: d\n", "path", 2, 4),
        ("corpus: {path: c}\nqueries: {path: q}\n'corpus': {path: d}\n", "corpus", 1, 3),
        ("x: [{a: 1, b: 2, a: 3}]\n", "a", 1, 1),
        ("1: a\n1: b\n", "1", 1, 2),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_lines(tmp_path, text, key, first, second):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        Study.load(path)
    assert refused.value.where == str(path)
    assert refused.value.problem == f"`{key}` is given twice, on line {first} and on line {second}"


def test_a_merged_key_may_be_given_again(tmp_path):
    path = written(tmp_path, smallest())
    model = "model: {train: {<<: &base {epochs: 2, seed: 1}, epochs: 3}}\n"
    path.write_text(path.read_text().replace("model:\n  path: m\n", model))
    assert Study.load(path).model.train.epochs == 3


@pytest.mark.parametrize(
    "value",
    [
        "2024-13-45", "2024-02-30", "2024-01-01 25:00:00", "!!int x", "!!int ''", "!!float x", "!!bool x",
        "!!timestamp x", "!!binary é", "!!python/object:os.system {}", "{[1]: 2}", "{{}: 2}", "*none",
        "[" * 3000 + "]" * 3000, "{a: " * 3000 + "}" * 3000, "\x00", "\t- x",
    ],
)  # fmt: skip
def test_yaml_that_cannot_be_built_is_one_paragraph(tmp_path, value):
    path = tmp_path / "study.yaml"
    path.write_text(f"name: wiki\nx: {value}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"is not YAML \(.*(line 2|position)|is nested too deeply") as refused:
        Study.load(path)
    assert refused.value.where == str(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 800


PATHS = [
    "corpus.path",
    "corpus.withdrawn",
    "model.path",
    "model.adapter",
    "model.optimizer",
    "model.tuned.base",
    "queries.path",
    "storage.root",
    "model.members.0",
    "extensions.0",
]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("~no-such-user/x", "the home folder ~no-such-user is not known"),
        ("~no-such-user", "the home folder ~no-such-user is not known"),
        ("a\0b", "cannot contain a NUL character"),
        ("a\ud800b", "valid string"),
    ],
)
@pytest.mark.parametrize("key", PATHS)
def test_what_cannot_be_a_path_is_refused_with_its_key(tmp_path, key, path, problem):
    written_at = key.removesuffix(".0")
    described = with_value(written_at, [path] if written_at != key else path)
    (tmp_path / "study.yaml").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(InputError, match=f"`{key}` = .*{problem}"):
        Study.load(tmp_path / "study.yaml")


def test_every_path_is_tried():
    """A path added to the study must be added above."""
    documented = set(re.findall(r"^\| `([\w.]+)` \| .*(?:[Ff]older|file with|URL of one)", reference(), re.MULTILINE))
    assert {"corpus.path", "storage.root"} <= documented
    assert documented - {"compute.executor"} <= {key.removesuffix(".0") for key in PATHS}


@pytest.mark.parametrize("key", PATHS[:-2])
@pytest.mark.parametrize("path", ["n" * 300, "loop/x"])
def test_a_path_that_cannot_be_examined_waits_for_who_reads_it(tmp_path, key, path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert Study.load(written(tmp_path, with_value(key, path)))


@pytest.mark.parametrize("path", ["~no-such-user/study.yaml", "a\0b", "a\ud800b", "n" * 300, "loop"])
def test_a_study_at_what_cannot_be_a_path_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"is not a path|cannot be read"):
        Study.load(path)


def test_empty_sections_have_their_defaults(tmp_path):
    """`scores:` with every key commented out is null in YAML."""
    optional = dict.fromkeys(SECTIONS[4:])
    emptied = Study.load(written(tmp_path, smallest() | optional))
    assert emptied == Study.load(written(tmp_path, smallest()))


def test_yaml_reads_an_unquoted_true_as_a_boolean(tmp_path):
    path = written(tmp_path, smallest())
    path.write_text(path.read_text() + "curvature: {fisher: true, damping_scale: 1e-2}\n", encoding="utf-8")
    study = Study.load(path)
    assert (study.curvature.fisher, study.curvature.damping_scale) == ("true", 0.01)


def test_paths_are_relative_to_the_study_and_urls_stay(tmp_path, monkeypatch):
    home = tmp_path / "elsewhere"
    (home / "m").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    study = Study.load(written(home, smallest()))
    assert study.corpus.path == str(home / "c")
    assert study.queries.path == str(home / "q")
    assert study.model.path == str(home / "m")
    assert study.storage.root == str(home / "store")
    remote = smallest() | {"corpus": {"path": "s3://bucket/c"}, "queries": {"path": "/absolute/q.jsonl"}}
    remote["model"] = {"path": "EleutherAI/pythia-14m"}
    study = Study.load(written(home, remote))
    assert study.corpus.path == "s3://bucket/c"
    assert study.queries.path == "/absolute/q.jsonl"
    assert study.model.path == "EleutherAI/pythia-14m"


def test_extensions_are_folders_below_the_study(tmp_path):
    (tmp_path / "mine").mkdir()
    study = Study.load(written(tmp_path, smallest() | {"extensions": ["mine"]}))
    assert study.extensions == (str(tmp_path / "mine"),)
    assert tmp_path / "mine" in extension_folders()
    with pytest.raises(InputError, match=r"^extensions: .*/none is not a folder"):
        Study.load(written(tmp_path, smallest() | {"extensions": ["mine", "none"]}))


def test_a_study_is_frozen(tmp_path):
    study = Study.load(written(tmp_path, smallest()))
    with pytest.raises(ValueError, match="frozen"):
        study.curvature.seed = 1


def test_the_written_template_loads_as_it_says(tmp_path):
    path = write_example(tmp_path / "new")
    study = Study.load(path)
    expected = Study.model_validate(EXAMPLE).resolved(path.parent)
    assert study == expected


def test_the_template_explains_every_key():
    text = " ".join(line.strip("# ") for line in commented(EXAMPLE).splitlines())  # twice # in what is left out whole
    for model, field in every_field(Study):
        assert field.description, f"{model.__name__} has a key without a description"
        assert field.description in text


def test_commented_keys_show_their_defaults():
    """Taking the # off every key without touching its value changes nothing."""
    keys = re.compile(r"^(\s*)# (\w+): (?!…)(.*)$")
    names = {name for model, _ in every_field(Study) for name in model.model_fields}
    lines = []
    for line in commented(EXAMPLE).splitlines():
        found = keys.match(line)
        lines.append(f"{found[1]}{found[2]}: {found[3]}" if found and found[2] in names else line)
    uncommented = "\n".join(lines)
    assert uncommented.count("#") < commented(EXAMPLE).count("#") - 15
    assert Study.model_validate(yaml.safe_load(uncommented)) == Study.model_validate(EXAMPLE)


def test_a_section_that_is_left_out_is_one_comment():
    """Taking one # off each of its lines gives the section with its defaults, and no key of another one."""
    lines = commented(EXAMPLE).splitlines()
    first = lines.index("  # tuned:")
    block = list(itertools.takewhile(lambda line: line == lines[first] or line.startswith("  #   "), lines[first:]))
    section = yaml.safe_load("\n".join(line.replace("# ", "", 1) for line in block))["tuned"]
    assert section == {**Tuning(base="…").model_dump(), "base": "…"}
    assert section.keys() == Tuning.model_fields.keys()


def every_field(model):
    """All fields that hold a value, and the sections above them that a person writes."""
    for field in model.model_fields.values():
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if section is not None:
            yield from every_field(section)
        else:
            yield model, field


def test_blocks_and_a_rank_exclude_one_another(tmp_path):
    both = smallest() | {"curvature": {"blocks": 2, "rank": 8}}
    with pytest.raises(InputError, match="leave `blocks` at 1"):
        Study.load(written(tmp_path, both))
    assert Study.load(written(tmp_path, with_value("curvature.rank", 8))).curvature.rank == 8


def test_an_embedding_and_a_rank_exclude_one_another(tmp_path):
    both = smallest() | {"curvature": {"modules": "mlp+embedding", "rank": 8}}
    with pytest.raises(InputError, match="`rank` has no form for an embedding"):
        Study.load(written(tmp_path, both))
    assert Study.load(written(tmp_path, smallest() | {"curvature": {"modules": "mlp+embedding", "blocks": 2}}))
