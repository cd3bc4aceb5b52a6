"""Configuration: what is refused, in which words; what presets change; who imports whom."""

import ast
import copy
import math
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from helpers import home_of

from stalegrad import specs
from stalegrad.io.errors import ConfigError
from stalegrad.planning.cell import parse_cell
from stalegrad.planning.config import (
    Grid,
    Preset,
    Settings,
    Simulation,
    Study,
    at_preset,
    load_preset,
    load_settings,
    load_study,
    read_yaml,
    study_homes,
)
from stalegrad.planning.expand import (
    study_cells,
    study_landscapes,
    study_simulations,
    study_trajectories,
)
from stalegrad.planning.studies import study_module

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config"
SOURCE = ROOT / "src" / "stalegrad"
WHERE = "studies/some/study.yaml, grids.some"

CELL = {
    "problem": {"name": "lenet5", "dataset": "mnist"},
    "rule": {"name": "sgd", "lr": 0.1},
    "cluster": {"name": "constant_delay", "delay": 2},
    "batch_size": 64,
    "epochs": 3,
}
STUDY = {
    "title": "A title",
    "cite": "key",
    "grids": {
        "some": {
            "cell": {k: v for k, v in CELL.items() if k != "epochs"},
            "axes": {"epochs": [1, 2]},
            "quick": {"cell": {"batch_size": 32}},
        }
    },
    "simulations": {
        "other": {
            "cluster": {"name": "hub_and_spoke", "workers": 2, "compute_time": {"name": "expon"}},
            "arrivals": 100,
            "smoke": {"arrivals": 10},
        }
    },
    "figures": {"one": {"caption": "A caption."}},
}
PRESET = {"title": "quick", "seeds": 2, "bundle_size": 4}
DELETE = object()


def changed(base: dict, path: str, value) -> dict:
    """A copy with the key at a dotted path set, or left out."""
    out = copy.deepcopy(base)
    *parents, last = path.split(".")
    inner = out
    for part in parents:
        inner = inner[part]
    if value is DELETE:
        del inner[last]
    else:
        inner[last] = value
    return out


def refusal(function, *arguments, **keywords) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **keywords)
    return str(caught.value)


# ---- cells ----

TEXT = "a number is needed. (YAML reads 1e-3 as text: write 0.001.)"
RULES, CLUSTERS, PROBLEMS = (
    ", ".join(specs.names(kind)) for kind in ("rules", "clusters", "problems")
)
BAD_CELLS = [
    # path, value, what the message must hold: the key, the value, what is allowed
    ("batchsize", 3, ["'batchsize'", "not a known key", "batch_size, cluster"]),
    ("problem.size", 3, ["'problem.size'", "not a known key", "dataset, ", "normalize, "]),
    ("rule.momentun", 0.9, ["'rule.momentun'", "not a known key", "lr, momentum, nesterov"]),
    ("rule.1", 0.9, ["'rule.1'", "not a known key"]),
    ("cluster.dealy", 3, ["'cluster.dealy'", "not a known key", "delay, ramp_epochs"]),
    ("batch_size", DELETE, ["'batch_size'", "missing"]),
    ("rule", DELETE, ["'rule'", "missing"]),
    ("rule.lr", DELETE, ["'rule.lr'", "missing"]),
    ("rule.name", DELETE, ["'rule'", "mapping with a 'name'", RULES]),
    ("rule", "sgd", ["'rule'", "'sgd'", "mapping with a 'name'", RULES]),
    ("rule", None, ["'rule'", "None", RULES]),
    ("rule.name", "sdg", ["'rule.name'", "'sdg'", RULES]),
    ("cluster.name", "ring", ["'cluster.name'", "'ring'", CLUSTERS]),
    ("cluster.name", "_merge", ["'cluster.name'", "'_merge'", CLUSTERS]),
    ("problem.name", "../lenet5", ["'problem.name'", "'../lenet5'", PROBLEMS]),
    ("rule.lr", "1e-3", ["'rule.lr'", "'1e-3'", TEXT]),
    ("rule.lr", 0, ["'rule.lr'", " 0:", "greater than 0"]),
    ("rule.lr", -0.1, ["'rule.lr'", "-0.1", "greater than 0"]),
    ("rule.lr", True, ["'rule.lr'", "True", "valid number"]),
    ("rule.lr", None, ["'rule.lr'", "None", "valid number"]),
    ("rule.lr", [0.1], ["'rule.lr'", "[0.1]", "valid number"]),
    ("rule.lr", math.nan, ["'rule.lr'", "nan", "finite number"]),
    ("rule.lr", math.inf, ["'rule.lr'", "inf", "finite number"]),
    ("rule.weight_decay", -0.1, ["'rule.weight_decay'", "-0.1", "greater than or equal to 0"]),
    ("rule.momentum", 1.0, ["'rule.momentum'", "1.0", "less than 1"]),
    ("rule.nesterov", 1, ["'rule.nesterov'", "1", "boolean"]),
    ("rule.nesterov", "yes", ["'rule.nesterov'", "'yes'", "boolean"]),
    ("rule.clip_norm", 0.0, ["'rule.clip_norm'", "0.0", "greater than 0"]),
    ("rule.warmup_epochs", -1.0, ["'rule.warmup_epochs'", "-1.0", "greater than or equal to 0"]),
    ("cluster.delay", -1, ["'cluster.delay'", "-1", "greater than or equal to 0"]),
    ("cluster.delay", 1.5, ["'cluster.delay'", "1.5", "integer"]),
    ("cluster.delay", "2", ["'cluster.delay'", "'2'", "a number is needed"]),
    ("cluster.delay", True, ["'cluster.delay'", "True", "integer"]),
    ("problem.dataset", "cifar", ["'problem.dataset'", "'cifar'", "'mnist' or 'fashion_mnist'"]),
    ("problem.train_samples", 70_000, ["'problem.train_samples'", "70000", "60000"]),
    ("batch_size", 60_001, ["'batch_size'", "60001", "60000 training samples"]),
    ("batch_size", 0, ["'batch_size'", "0", "greater than or equal to 1"]),
    ("batch_size", "64", ["'batch_size'", "'64'", "a number is needed"]),
    ("batch_size", 64.0, ["'batch_size'", "64.0", "integer"]),
    ("batch_size", True, ["'batch_size'", "True", "integer"]),
    ("batch_size", math.nan, ["'batch_size'", "nan", "integer"]),
    ("epochs", 0, ["'epochs'", "0", "greater than or equal to 1"]),
    ("epochs", None, ["'epochs'", "None", "integer"]),
    ("seed", -1, ["'seed'", "-1", "greater than or equal to 0"]),
    ("partition", "iid", ["'partition'", "'iid'", "shared"]),
    ("partition", ["shared"], ["'partition'", "['shared']", "shared"]),
]


@pytest.mark.parametrize(("path", "value", "parts"), BAD_CELLS)
def test_bad_cell_is_refused_in_one_sentence(path, value, parts):
    message = refusal(parse_cell, changed(CELL, path, value), WHERE)
    assert message.startswith(f"{WHERE}: ")
    assert message.endswith((".", ".)")) and "\n" not in message
    for part in parts:
        assert part in message


def test_keys_that_are_not_text_are_refused():
    message = refusal(parse_cell, changed(CELL, "rule", {"name": "sgd", "lr": 0.1, 1: 2}), WHERE)
    assert "'rule.1' is not a known key" in message


@pytest.mark.parametrize("value", [3, None, "text", [1]])
def test_cell_that_is_no_mapping_is_refused(value):
    assert refusal(parse_cell, value, WHERE).startswith(f"{WHERE}: ")


def test_everything_wrong_with_a_part_is_said_at_once():
    rule = {"name": "sgd", "lr": "1e-3", "momentum": 2, "nesterow": True}
    lines = refusal(parse_cell, changed(CELL, "rule", rule), WHERE).splitlines()
    assert len(lines) == 3 and all(line.startswith(f"{WHERE}: 'rule.") for line in lines)


def test_keys_that_do_not_go_together_are_shown_together():
    problem = {"name": "chain", "strong_convexity": 2.0}
    said = refusal(parse_cell, changed(CELL, "problem", problem), WHERE)
    assert said == (
        f"{WHERE}: 'problem' is {{'strong_convexity': 2.0}}: strong_convexity must be at most "
        f"smoothness, and 0 with a penalty that is not convex."
    )


def test_whole_numbers_do_for_rates():
    """YAML writes 1.0 as 1; the two are one rate."""
    assert parse_cell(changed(CELL, "rule.lr", 1), WHERE).rule.lr == 1.0


# ---- studies, presets and settings ----

BAD_STUDIES = [
    ("titel", "x", ["'titel'", "not a known key", "cite, curves, figures, grids"]),
    ("grids.some.axs", {}, ["'grids.some.axs'", "not a known key", "axes, cases, cell"]),
    ("grids.some.quick.axs", {}, ["'grids.some.quick.axs'", "not a known", "axes, cases, cell"]),
    ("grids.some.quick.quick", {}, ["'grids.some.quick.quick'", "not a known key"]),
    ("grids.some.paper", {}, ["'grids.some.paper'", "not a known key", "quick, seeds, smoke"]),
    ("simulations.other.cell", {}, ["'simulations.other.cell'", "not a known key", "arrivals"]),
    ("figures.one.captoin", "x", ["'figures.one.captoin'", "not a known key", "caption, make"]),
    ("cite", DELETE, ["'cite'", "missing"]),
    ("figures.one.caption", DELETE, ["'figures.one.caption'", "missing"]),
    ("title", 3, ["'title'", "3", "string"]),
    ("grids", [], ["'grids'", "[]", "dictionary"]),
    ("grids.some", 3, ["'grids.some'", "3", "dictionary"]),
    ("grids.some.seeds", 0, ["'grids.some.seeds'", "0", "greater than or equal to 1"]),
    ("grids.some.axes.epochs", 3, ["'grids.some.axes.epochs'", "3", "list"]),
    ("grids.some.axes.epochs", [], ["'grids.some.axes.epochs'", "[]", "at least 1 item"]),
    ("grids.some.cases", [], ["'grids.some.cases'", "[]", "at least 1 item"]),
    ("grids.some.axes.epochs", [[1]], ["'grids.some.axes.epochs.0'", "[1]", "one value"]),
    ("grids.some.axes.epochs", [math.inf], ["'grids.some.axes.epochs.0'", "inf", "finite"]),
    ("grids.some.cases", [{"epochs": {}}], ["'grids.some.cases.0.epochs'", "{}", "one value"]),
    ("simulations.other.arrivals", "10", ["'simulations.other.arrivals'", "'10'", "number"]),
    ("simulations.other.replicates", 1.5, ["'simulations.other.replicates'", "1.5", "integer"]),
]


def write(folder: Path, file: str, values) -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(("path", "value", "parts"), BAD_STUDIES)
def test_bad_study_is_refused(tmp_path, path, value, parts):
    file = write(tmp_path, "some/study.yaml", changed(STUDY, path, value))
    message = refusal(load_study, tmp_path / "some")
    assert message.startswith(f"{file}: ") and "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("changes", "which"),
    [
        ({"axes": {"epochs": [1, 2, 1]}}, 'that of seed 1 with {"epochs": 1}'),
        ({"cases": [{"rule.lr": 0.1}, {}]}, 'that of seed 1 with {"epochs": 1}'),
        ({"cell": STUDY["grids"]["some"]["cell"] | {"seed": 7}}, "that of seed 7 with"),
    ],
)
def test_a_run_that_would_count_twice_is_refused(changes, which):
    study = Study(**changed(STUDY, "grids.some", STUDY["grids"]["some"] | changes))
    said = refusal(study_cells, study, "paper", Preset(**PRESET), "f.yaml")
    assert said.startswith("f.yaml, grids.some: 'axes', 'cases' and 'seeds' make one run twice")
    assert which in said


def test_good_study_and_preset_are_read(tmp_path):
    write(tmp_path, "some/study.yaml", STUDY)
    write(tmp_path, "presets/some.yaml", PRESET)
    study, preset = load_study(tmp_path / "some"), load_preset("some", tmp_path)
    assert study.grids["some"].quick.cell == {"batch_size": 32}
    assert (preset.seeds, preset.bundle_size) == (2, 4)


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("seed", 3, ["'seed'", "not a known key", "bundle_size, seeds, title"]),
        ("seeds", 0, ["'seeds'", "0", "greater than or equal to 1"]),
        ("seeds", True, ["'seeds'", "True", "integer"]),
        ("bundle_size", math.nan, ["'bundle_size'", "nan", "integer"]),
        ("bundle_size", DELETE, ["'bundle_size'", "missing"]),
    ],
)
def test_bad_preset_is_refused(tmp_path, path, value, parts):
    file = write(tmp_path, "presets/some.yaml", changed(PRESET, path, value))
    message = refusal(load_preset, "some", tmp_path)
    assert message.startswith(f"{file}: ") and "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("prest", "quick", ["'prest'", "not a known key", "preset"]),
        ("preset", "papr", ["'preset'", "'papr'", "'smoke', 'quick' or 'paper'"]),
        ("device", "gpu", ["'device'", "'gpu'", "'auto', 'cpu' or 'cuda'"]),
        ("backend", "numba", ["'backend'", "'numba'", "'batched' or 'batched_tf32'"]),
        ("threads", 0, ["'threads'", "0", "greater than or equal to 1"]),
        ("threads", "2", ["'threads'", "'2'", "a number is needed"]),
        (
            "studies",
            "jain2018",
            ["'studies'", "'jain2018'", "a list is needed, such as [jain2018]"],
        ),
        ("studies", [], ["'studies'", "[]", "at least 1 item"]),
        ("data_folder", 3, ["'data_folder'", "3", "string"]),
    ],
)
def test_bad_setting_is_refused(path, value, parts):
    message = refusal(load_settings, {path: value})
    assert message.startswith("config/config.yaml: ") and "\n" not in message
    for part in parts:
        assert part in message


def test_words_given_on_the_command_line_are_those_of_yaml():
    given = {"recompute": "true", "studies": "null", "local_data": "null"}
    assert load_settings(given) == Settings(recompute=True)
    assert load_settings({"recompute": "false"}) == Settings()
    assert "'yes'" in refusal(load_settings, {"recompute": "yes"})


def test_unknown_study_and_preset_say_which_there_are():
    message = refusal(load_preset, "large", CONFIG)
    assert "large.yaml: there is no such file" in message and "paper, quick, smoke" in message
    message = refusal(study_homes, Settings(studies=["jain2019"]), CONFIG)
    assert "'studies'" in message and "'jain2019'" in message and "jain2018" in message
    there = study_homes(Settings(studies=["jain2018"]), CONFIG)
    assert there == {"jain2018": home_of("jain2018")}


def test_studies_of_several_folders_are_found(tmp_path):
    for file in ("mine/b/study.yaml", "theirs/a/study.yaml", "theirs/notes/other.yaml"):
        write(tmp_path, file, STUDY)
    settings = Settings(studies_folders=["mine", "theirs"])
    found = study_homes(settings, tmp_path / "config")
    assert list(found.items()) == [("a", tmp_path / "theirs/a"), ("b", tmp_path / "mine/b")]
    one = settings.model_copy(update={"studies": ["b"]})
    assert list(study_homes(one, tmp_path / "config")) == ["b"]


def test_folders_of_studies_that_do_not_do_are_refused(tmp_path):
    for file in ("mine/a/study.yaml", "theirs/a/study.yaml"):
        write(tmp_path, file, STUDY)

    def said(*folders):
        return refusal(study_homes, Settings(studies_folders=list(folders)), tmp_path / "config")

    assert f"two studies called 'a', {tmp_path / 'mine/a'} and" in said("mine", "theirs")
    assert f"'studies_folders' names {tmp_path / 'ours'}, which is no folder" in said("ours")


def test_modules_of_a_study_are_imported_each_from_its_own_folder(tmp_path):
    for folder in ("mine", "theirs"):
        write(tmp_path, f"{folder}/a/tables.py", f"where = {folder!r}\n")
        write(tmp_path, f"{folder}/a/claims.py", "from .tables import where\n")
    found = [study_module(tmp_path / folder / "a", "claims").where for folder in ("mine", "theirs")]
    assert found == ["mine", "theirs"]
    with pytest.raises(ModuleNotFoundError) as missing:
        study_module(tmp_path / "mine" / "a", "figures")
    assert missing.value.name.endswith(".figures")


@pytest.mark.parametrize(
    ("text", "says"),
    [("a: [1", "not readable as YAML"), ("- a", "keys and values"), ("", "keys and values")]
    + [("1: a", "every key must be text")],
)
def test_files_that_are_no_mapping_are_refused(tmp_path, text, says):
    path = write(tmp_path, "some/study.yaml", text)
    message = refusal(read_yaml, path)
    assert message.startswith(f"{path}: ") and says in message and "\n" not in message


def test_folder_in_place_of_a_file_is_refused(tmp_path):
    assert "not readable" in refusal(read_yaml, tmp_path)


# ---- presets ----


def grid(**keys) -> Grid:
    return specs.validate(Grid, keys, where="a test")


def test_preset_merges_cells_and_axes_and_replaces_the_rest():
    some = grid(
        cell={"problem": {"name": "lenet5", "dataset": "mnist"}, "epochs": 30},
        axes={"rule.lr": [0.1, 0.2], "cluster.delay": [0, 1]},
        cases=[{"rule.momentum": 0.0}, {"rule.momentum": 0.9}],
        seeds=3,
        quick={"cell": {"problem": {"train_samples": 10}}, "axes": {"rule.lr": [0.1]}},
        smoke={"cases": [{"rule.momentum": 0.5}], "seeds": None, "cell": {"epochs": 1}},
    )
    written = at_preset(some, "paper")
    assert written == {
        "cell": {"problem": {"name": "lenet5", "dataset": "mnist"}, "epochs": 30},
        "axes": {"rule.lr": [0.1, 0.2], "cluster.delay": [0, 1]},
        "cases": [{"rule.momentum": 0.0}, {"rule.momentum": 0.9}],
        "seeds": 3,
    }
    quick = at_preset(some, "quick")
    problem = {"name": "lenet5", "dataset": "mnist", "train_samples": 10}
    assert quick == written | {
        "cell": {"problem": problem, "epochs": 30},
        "axes": {"rule.lr": [0.1], "cluster.delay": [0, 1]},
    }
    assert list(quick["axes"]) == ["rule.lr", "cluster.delay"]
    smoke = at_preset(some, "smoke")
    assert smoke["cell"] == written["cell"] | {"epochs": 1}
    assert (smoke["axes"], smoke["seeds"]) == (written["axes"], None)
    assert smoke["cases"] == [{"rule.momentum": 0.5}]
    assert at_preset(some, "paper") == written


def test_preset_merges_the_cluster_of_a_simulation():
    keys = {
        "cluster": {"name": "hub_and_spoke", "workers": 2},
        "arrivals": 100,
        "replicates": 3,
        "quick": {"cluster": {"workers": 4}, "arrivals": 10},
    }
    merged = at_preset(specs.validate(Simulation, keys, where="a test"), "quick")
    assert merged["cluster"] == {"name": "hub_and_spoke", "workers": 4}
    assert (merged["arrivals"], merged["replicates"]) == (10, 3)


# ---- what is committed ----

PRESETS = sorted(path.stem for path in (CONFIG / "presets").glob("*.yaml"))
STUDIES = sorted(path.parent.name for path in (ROOT / "studies").glob("*/study.yaml"))


def test_committed_settings_are_valid():
    assert load_settings(read_yaml(CONFIG / "config.yaml")) == Settings()
    assert PRESETS == ["paper", "quick", "smoke"] and "jain2018" in STUDIES


@pytest.mark.parametrize("preset_name", PRESETS)
@pytest.mark.parametrize("study_name", STUDIES)
def test_committed_study_expands_at_every_preset(study_name, preset_name):
    study, preset = load_study(home_of(study_name)), load_preset(preset_name, CONFIG)
    grids = study_cells(study, preset_name, preset, study_name)
    simulations = study_simulations(study, preset_name, study_name)
    assert grids.keys() == study.grids.keys() and all(grids.values())
    assert simulations.keys() == study.simulations.keys() and all(simulations.values())
    trajectories = study_trajectories(study, preset_name, preset, study_name)
    assert trajectories.keys() == study.trajectories.keys()
    landscapes = study_landscapes(study, preset_name, preset, study_name)
    assert landscapes.keys() == study.landscapes.keys()
    for name, cells in grids.items():
        assert len({cell.hash for cell in cells}) == len(cells), f"{name} names a run twice"
        seeds = {cell.seed for cell in cells}
        grid = at_preset(study.grids[name], preset_name)
        named = {case["seed"] for case in grid["cases"] or [] if "seed" in case}
        assert seeds == (named or set(range(1, (grid["seeds"] or preset.seeds) + 1)))


# ---- who imports whom ----

# From left to right, the way data flow; a module may import what stands to its left, and modules
# of its own package. Packages on one line know nothing of each other.
ORDER = [
    ["io", "schedule"],
    ["specs"],
    ["data_order"],
    ["staleness"],
    ["clusters", "rules", "problems"],
    ["planning"],
    ["training"],
    ["recording", "analysis"],
    ["api", "report"],
    ["cli"],
    ["__main__"],
]
PLACE = {name: place for place, names in enumerate(ORDER) for name in names}
MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path != SOURCE / "__init__.py"
}


def family(module: str) -> str:
    """The module or package directly under stalegrad that a module belongs to."""
    name = module.split(".")[1]
    assert name in PLACE, f"{name} is new: give it a place in ORDER in {__file__}"
    return name


def imported(module: str, when_called: bool = True) -> set[str]:
    """The modules of the package that a module imports, be it `when_called` only or not."""
    found, tree = set(), ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree) if when_called else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("stalegrad.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            if node.module.partition(".")[0] == "stalegrad":
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in MODULES else node.module for name in names}
    return found - {"stalegrad"}  # its version


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_from_further_right(module):
    here = family(module)
    for name in sorted(imported(module)):
        there = family(name)
        left = there == here or PLACE[there] < PLACE[here]
        assert left, f"{module} imports {name}, which is not to its left"


def test_no_modules_wait_for_each_other():
    """Importing goes in no circle of any length, be it within one package."""
    waits = {module: imported(module, when_called=False) - {module} for module in MODULES}
    assert waits["stalegrad.planning.plan"] >= {"stalegrad.planning.expand", "stalegrad.io.files"}
    TopologicalSorter(waits).prepare()


def test_configuration_is_read_without_torch():
    """Snakemake expands every study at each start: it must not take seconds."""
    code = """
import sys
from pathlib import Path
from stalegrad.planning.plan import Plan
plan = Plan.load({"preset": "paper", "recompute": True}, Path(sys.argv[1]))
for study in plan.studies:
    plan.short_bundles(study), plan.digest(study), plan.products_digest(study, "figures", "claims")
print(len(plan.grids["jain2018"]["fig2"]), len(plan.bundles["jain2018"]))
heavy = {"torch", "torchvision", "matplotlib", "snakemake", "pandas", "sklearn", "numba"}
print(*sorted(heavy & sys.modules.keys()))
"""
    command = [sys.executable, "-W", "error", "-c", code, str(CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    counts, heavy = done.stdout.split("\n")[:2]
    cells, bundled = map(int, counts.split())
    assert cells >= 900 and bundled >= 40
    assert heavy == ""
