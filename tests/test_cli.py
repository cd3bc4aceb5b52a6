"""The command `stalegrad`: every subcommand, what it refuses, and what it leaves behind."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from helpers import small_cell

from stalegrad import cli
from stalegrad.analysis.archive import archived_history, archived_runs
from stalegrad.cli.cell_flags import cell_of, field_texts
from stalegrad.cli.flags import Parser, add_place_flags, grids_of, named_by_flag
from stalegrad.io import datasets
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.bundle import bundles as cut
from stalegrad.planning.config import Preset, Settings, load_preset, load_study
from stalegrad.planning.expand import study_cells
from stalegrad.training import bundles

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "recordings" / "chain.csv.gz"
SMALL = ["--dataset", "mnist", "--train-samples", "160", "--test-samples", "50"]
CELL = [*SMALL, "--lr", "0.05", "--momentum", "0.9", "--delay", "1"]
CELL += ["--batch-size", "20", "--epochs", "3", "--threads", "1"]


@pytest.fixture
def workplace(data_folder, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with the project's configuration and the small data set; nothing is
    archived there."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    without = shutil.ignore_patterns("measured", "__pycache__")
    shutil.copytree(ROOT / "studies", tmp_path / "studies", ignore=without)
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "data").symlink_to(data_folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run the command; its exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def refused(outcome: tuple[int, str, str]) -> str:
    """The one sentence of a refusal."""
    status, _, said = outcome
    assert status == 2
    assert (
        said.startswith("stalegrad: ") and said.endswith((".\n", ".)\n")) and said.count("\n") == 1
    )
    return said.removeprefix("stalegrad: ").strip()


def bundle_files(folder: Path) -> list[Path]:
    """Two bundles of two small runs each, as files."""
    folder.mkdir()
    files = []
    for delay in (0, 2):
        cells = tuple(small_cell(cluster__delay=delay, seed=seed) for seed in (1, 2))
        files.append(folder / f"delay{delay}.json")
        files[-1].write_text(Bundle(cells).to_json())
    return files


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, *code.split(), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["data", "cells", "run", "bundles", "run-bundle", "archive", "figure"]
)
def test_every_command_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    examples = capsys.readouterr().out.partition("examples:\n")[2]
    assert f"  stalegrad {command} " in examples


def test_the_examples_of_run_are_cells(workplace, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    text = capsys.readouterr().out.partition("examples:\n")[2].replace("\\\n", " ")
    assert "--study STUDY" in text
    text = text.replace("STUDY", "jain2018")  # one that has the example's hash
    text = text.replace("results/traces/TRACE.csv", str(RECORDED))
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert len(lines) >= 3
    for _, *arguments in lines:
        options = cli.parser_for(arguments).parse_args(arguments)
        assert cell_of(options).batch_size == (10 if options.trace else 64)


def test_commands_in_the_documents_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    documents = [ROOT / "README.md", ROOT / "measured" / "README.md", *ROOT.glob("docs/*.md")]
    text = "\n".join(path.read_text() for path in documents).replace("\\\n", " ")
    text = text.replace(" ten.csv.gz", f" {RECORDED}")
    lines = re.findall(r"^ {4}stalegrad (.*)$", text, re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        arguments = shlex.split(line, comments=True)
        options = cli.parser_for(arguments).parse_args(arguments)
        if arguments[0] == "run":
            cell_of(options)
        elif hasattr(options, "grid"):
            grids_of(options, "paper")


def test_help_and_listing_import_nothing_heavy():
    watched = "('torch', 'pandas', 'snakemake', 'matplotlib')"
    code = (
        "import sys\nfrom stalegrad import cli\n"
        "try:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {watched} if name in sys.modules])"
    )
    config = ["--config-folder", str(ROOT / "config")]
    for arguments in (["--help"], ["run", "--help"], ["cells", "--study", "jain2018", *config]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_is_the_command():
    done = run_python("-m stalegrad", "--help")
    assert done.returncode == 0 and "run-bundle" in done.stdout
    done = run_python("-m stalegrad", "run", "--rule", "none")
    assert done.returncode == 2 and done.stderr.startswith("stalegrad: ")
    assert "Traceback" not in done.stderr


def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-m", "stalegrad", "cells", "--study", "jain2018"]
    command += ["--config-folder", str(ROOT / "config"), "--preset", "paper"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as listing:
        listing.stdout.readline()
        listing.stdout.close()
        assert listing.stderr.read() == b""


# --- data -----------------------------------------------------------------------------------------


def test_data_are_taken_from_a_local_folder(data_folder, tmp_path, call):
    status, said, _ = call("data", "mnist", "--data-folder", tmp_path, "--local-data", data_folder)
    assert status == 0 and f"mnist: verified, in {tmp_path / 'mnist'}" in said
    for file in datasets.SHA256["mnist"]:
        assert (tmp_path / "mnist" / file).read_bytes() == (
            data_folder / "mnist" / file
        ).read_bytes()


def test_unknown_data_are_refused(call, tmp_path):
    assert "no data set 'cifar'" in refused(call("data", "cifar", "--data-folder", tmp_path))


# --- cells ----------------------------------------------------------------------------------------


def test_cells_as_csv_have_every_column(workplace, call):
    status, said, _ = call("cells", "--study", "jain2018", "--preset", "smoke", "--csv")
    study = load_study(Path("studies/jain2018"))
    wanted = study_cells(study, "smoke", load_preset("smoke"), "here")
    rows = list(csv.DictReader(io.StringIO(said)))
    assert status == 0
    assert [(row["grid"], row["hash"]) for row in rows] == [
        (grid, cell.hash) for grid, cells in wanted.items() for cell in cells
    ]
    first = wanted["fig2"][0].columns()
    assert {k: rows[0][k] for k in first if first[k] is not None} == {
        k: str(v) for k, v in first.items() if v is not None
    }


def test_cells_as_text_say_once_what_all_share(workplace, call):
    _, said, _ = call("cells", "--study", "jain2018", "--preset", "paper", "--grid", "fig2")
    head, _, header, *rows = said.splitlines()
    assert head.startswith("900 runs, all with ") and "momentum=0.9" in head and "epochs=30" in head
    assert header.split() == ["grid", "hash", "lr", "delay", "batch_size", "seed"]
    assert len(rows) == 900 and all(len(row.split()) == 6 for row in rows)


def test_unknown_studies_and_grids_are_refused(workplace, call):
    assert "jain2018" in refused(call("cells", "--study", "jain2081"))
    assert "'fig9'; there are fig2" in refused(
        call("cells", "--study", "jain2018", "--grid", "fig9")
    )


# --- run ------------------------------------------------------------------------------------------


def test_run_prints_accuracy_each_epoch_and_writes_what_it_printed(workplace, call):
    status, said, _ = call("run", *CELL, "--output", "out.csv")
    assert status == 0
    history = pd.read_csv("out.csv")
    assert set(history["run"]) == {small_cell().hash}
    printed = re.findall(r"epoch +(\d) of 3 .*test_accuracy (\S+)", said)
    assert printed == [
        (str(e), f"{a:.4f}") for e, a in zip(history.epoch, history.test_accuracy, strict=True)
    ]
    final = history.test_accuracy.iloc[-1]
    assert f"finished after epoch 3 with test accuracy {final:.4f}" in said


def test_run_gives_the_bytes_of_a_bundle_file(workplace, call):
    call("run", *CELL)
    cell = small_cell()
    Path("one.json").write_text(Bundle((cell,)).to_json())
    call("run-bundle", "one.json", "--output", "done")
    (written,) = Path("done").glob("*.csv")
    assert written.read_bytes() == Path(f"results/cells/{cell.hash}.csv").read_bytes()


def test_a_run_that_is_there_is_shown_and_not_trained(workplace, call, monkeypatch):
    _, first, _ = call("run", *CELL)
    monkeypatch.setattr(bundles, "train_bundle", None)
    assert call("run", *CELL) == (0, first, "")


def test_the_output_of_another_run_is_not_shown_for_this_one(workplace, call):
    call("run", *CELL, "--output", "out.csv")
    before = Path("out.csv").read_bytes()
    said = refused(call("run", *CELL, "--seed", "2", "--output", "out.csv"))
    assert "out.csv holds another run" in said
    assert Path("out.csv").read_bytes() == before


def test_a_run_that_diverges_says_so(workplace, call):
    status, said, _ = call("run", *CELL, "--lr", "1e30")
    assert status == 0 and "diverged in epoch 1 with test" in said


def test_a_listed_cell_is_run_by_the_start_of_its_hash(workplace, call):
    _, listing, _ = call("cells", "--study", "jain2018", "--preset", "smoke", "--csv")
    listed = [row for row in csv.DictReader(io.StringIO(listing)) if row["rule"] == "adam"][0]
    arguments = ["run", "--study", "jain2018", "--preset", "smoke", "--hash", listed["hash"][:10]]
    options = cli.parser_for(arguments).parse_args(arguments)
    assert cell_of(options).hash == listed["hash"]
    arguments += ["--beta1", "0.5", "--train-samples", "64"]
    changed = cell_of(cli.parser_for(arguments).parse_args(arguments))
    assert changed.rule.beta1 == 0.5 and changed.problem.train_samples == 64
    assert changed.cluster.delay == int(listed["delay"])


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--lr", ".05"], {"rule.lr": 0.05}),
        (["--lr", "5e-2"], {"rule.lr": 0.05}),
        (["--nesterov"], {"rule.nesterov": True}),
        (["--no-normalize"], {"problem.normalize": False}),
        (["--clip-norm", "null"], {"rule.clip_norm": None}),
        (["--set", "rule.momentum=0.25"], {"rule.momentum": 0.25}),
        (["--set", "seed=7"], {"seed": 7}),
    ],
)
def test_flags_become_the_values_of_a_cell(arguments, wanted):
    arguments = ["run", *CELL, *arguments]
    values = cell_of(cli.parser_for(arguments).parse_args(arguments)).as_dict()
    for key, value in wanted.items():
        part, _, field = key.rpartition(".")
        assert (values[part] if part else values)[field] == value


def test_nested_fields_take_json_or_dotted_keys():
    start = ["run", *SMALL, "--lr", "0.1", "--batch-size", "20", "--epochs", "1"]
    start += ["--cluster", "hub_and_spoke", "--workers", "3"]
    as_json = [*start, "--compute-time", '{"name": "gamma", "a": 2.5}']
    dotted = [*start, "--set", "cluster.compute_time.name=gamma"]
    dotted += ["--set", "cluster.compute_time.a=2.5"]
    cells = [cell_of(cli.parser_for(each).parse_args(each)) for each in (as_json, dotted)]
    assert cells[0] == cells[1] and cells[0].cluster.compute_time.a == 2.5


def test_a_new_rule_brings_its_flags(tmp_path, monkeypatch, capsys):
    from stalegrad import rules

    (tmp_path / "signed.py").write_text(
        "from stalegrad.rules import Rule\nfrom stalegrad.specs import spec\n\n\n"
        '@spec\nclass Signed(Rule):\n    """Steps of one length.\n\n'
        '    stretch: how much longer, 10% say.\n    """\n\n    stretch: float = 1.5\n'
    )
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    arguments = ["run", *SMALL, "--rule", "signed", "--lr", "0.1", "--stretch", "2"]
    arguments += ["--delay", "0", "--batch-size", "20", "--epochs", "1"]
    try:
        assert cell_of(cli.parser_for(arguments).parse_args(arguments)).rule.stretch == 2
        with pytest.raises(SystemExit):
            cli.main(["run", "--rule", "signed", "--help"])
        assert "how much longer, 10% say (default: 1.5)" in " ".join(
            capsys.readouterr().out.split()
        )
    finally:
        sys.modules.pop("stalegrad.rules.signed", None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lr", "fast"], "'--lr' is the text 'fast'; a number is needed"),
        (["--lr", "0"], "'--lr' is 0: input should be greater than 0."),
        (["--lr", "nan"], "'--lr' is nan: input should be a finite number."),
        (["--delay", "-1"], "'--delay' is -1: input should be greater than or equal to 0."),
        (["--delay", "1.5"], "'--delay' is 1.5: input should be a valid integer"),
        (["--batch-size", "161"], "'--batch-size' is 161, more than the 160 training samples"),
        (["--batch-size", "1e1"], "'--batch-size' is 10.0: input should be a valid integer"),
        (["--epochs", "0"], "'--epochs' is 0: input should be greater than or equal to 1."),
        (["--seed", "-1"], "'--seed' is -1: input should be greater than or equal to 0."),
        (["--dataset", "mnst"], "'--dataset' is 'mnst': input should be 'mnist'"),
        (["--partition", "mine"], "'--partition' is 'mine': input should be 'shared'"),
        (["--partition", '{"name": "dirichlet", "alpha": 0}'], "'partition.alpha' is 0: input sh"),
        (["--rule", "sgdd"], "argument --rule: invalid choice: 'sgdd'"),
        (["--beta1", "0.9"], "'--beta1' is not known here"),
        (["--threads", "0"], "argument --threads: '0' is not a whole number >= 1"),
        (["--set", "rule.lr"], "'--set' is 'rule.lr'; it must be KEY=VALUE."),
        (["--set", "rule.rate=1"], "'rule.rate' is not a known key; allowed here: clip_norm, lr"),
        (["--set", "speed=1"], "'speed' is not a known key; allowed here: batch_size, cluster"),
        (["--set", "seed.x=1"], "'--seed' is {'x': 1}: input should be a valid integer"),
        (["--hash", "0"], "'--hash' names a cell of a study; say which with '--study'."),
        (["--hash", "x", "--study", "jain2018"], "with which no runs of jain2018 at quick begin"),
        (["--hash", "", "--study", "jain2018"], "runs of jain2018 at quick begin"),
        (["--study", "jain2018"], "'--study' is given without '--hash'"),
        (["--data-folder", "nowhere"], "with `stalegrad data mnist --data-folder nowhere`"),
    ],
)  # fmt: skip
def test_wrong_values_are_one_sentence_that_names_the_flag(workplace, call, arguments, sentence):
    said = refused(call("run", *CELL, *arguments))
    assert sentence in said
    assert not Path("results").exists()


@pytest.mark.parametrize("key", ["device", "backend"])
def test_flags_allow_what_the_configuration_does(key):
    parser = Parser()
    add_place_flags(parser)
    (flag,) = (action for action in parser._actions if action.dest == key)
    assert flag.choices == get_args(Settings.model_fields[key].annotation)


def test_a_flag_that_is_missing_is_named(call):
    assert "'--lr' is missing and has no default" in refused(
        call("run", *SMALL, "--batch-size", "20", "--epochs", "1", "--delay", "0")
    )
    assert "'--batch-size' is missing and has no default" in refused(
        call("run", *SMALL, "--lr", "0.1", "--delay", "0", "--epochs", "1")
    )
    assert "COMMAND" in refused(call())


def test_a_device_that_is_not_there_is_refused(workplace, call, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "'--device' is 'cuda'" in refused(call("run", *CELL, "--device", "cuda"))


def test_an_interrupt_says_how_to_go_on(workplace, call, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundles, "train_bundle", interrupted)
    status, _, said = call("run", *CELL)
    assert status == 130 and "the same command goes on from there" in said


# --- bundles, run-bundle, archive -----------------------------------------------------------------


def fig2_at_paper(seeds: set[int]) -> list:
    cells = study_cells(
        load_study(Path("studies/jain2018")), "paper", load_preset("paper"), "here"
    )["fig2"]
    return [cell for cell in cells if cell.seed in seeds]


def read_all(folder: Path) -> list[Bundle]:
    return [Bundle.from_json(p.read_text(), p.name) for p in sorted(folder.glob("*.json"))]


def test_bundles_are_those_of_the_workflow(workplace, call):
    status, said, _ = call("bundles", "--study", "jain2018", "--preset", "smoke", "--output", "w")
    cells = study_cells(load_study(Path("studies/jain2018")), "smoke", load_preset("smoke"), "here")
    wanted = cut([c for each in cells.values() for c in each], load_preset("smoke"))
    assert status == 0
    assert {p.stem for p in Path("w").iterdir()} == {bundle.hash for bundle in wanted}
    assert set(read_all(Path("w"))) == set(wanted)


def test_bundles_say_how_much_work_they_are(workplace, call):
    arguments = ["--study", "jain2018", "--preset", "paper", "--grid", "fig2", "--seeds", "1,3"]
    arguments += ["--bundle-size", "100", "--output", "w"]
    _, said, _ = call("bundles", *arguments)
    # Whole minibatches of 60,000 images, times 6 delays, 10 rates, 2 seeds and 30 epochs.
    samples = sum(60_000 // b * b for b in (64, 128, 256, 512, 1024)) * 60 * 2 * 30
    assert "600 runs in 6 bundles" in said
    told = r"about [\d,]+ (?:min|h \d+ min) on one core \(measured: lenet5 [\d,]+ samples/s"
    assert re.search(f"{samples:,} samples: {told}", said)
    assert all(len(bundle.cells) == 100 for bundle in read_all(Path("w")))
    assert {c.seed for bundle in read_all(Path("w")) for c in bundle.cells} == {1, 3}


def test_seeds_that_are_not_there_are_refused(workplace, call):
    arguments = ["--study", "jain2018", "--seeds", "1,9,7", "--output", "todo"]
    assert "'--seeds' names 7, 9, which no run of jain2018 at quick has" in refused(
        call("bundles", *arguments)
    )
    assert not Path("todo").exists()


def test_archived_runs_are_left_out_unless_all_are_asked_for(workplace, call):
    cells = fig2_at_paper({1})
    archive = Path("studies/jain2018/measured")
    archive.mkdir()
    (archive / "runs.txt").write_text("\n".join(c.hash for c in cells[:298]))
    (archive / "history.csv.gz").touch()
    arguments = ["--study", "jain2018", "--preset", "paper", "--grid", "fig2", "--seeds", "1"]
    _, said, _ = call("bundles", *arguments, "--output", "w")
    assert "2 runs in 1 bundles" in said and f"298 more are in {archive} already" in said
    assert {c.hash for b in read_all(Path("w")) for c in b.cells} == {c.hash for c in cells[298:]}
    assert "300 runs in 15 bundles" in call("bundles", *arguments, "--output", "w", "--all")[1]


def test_run_bundle_trains_every_file_once(workplace, call, monkeypatch):
    files = bundle_files(workplace / "work")
    status, said, _ = call("run-bundle", *files, "--output", "done")
    assert status == 0 and "2 bundles, 0 of them trained already" in said
    before = {path: path.read_bytes() for path in Path("done").iterdir()}
    assert len(before) == 4  # two CSVs and their provenances, no checkpoint
    histories = pd.concat(pd.read_csv(path) for path in Path("done").glob("*.csv"))
    assert len(histories) == 2 * 2 * 3

    monkeypatch.setattr(bundles, "train_bundle", None)
    status, said, _ = call("run-bundle", *files, "--output", "done")
    assert (status, said) == (0, "2 bundles, 2 of them trained already\n")
    assert {path: path.read_bytes() for path in Path("done").iterdir()} == before


def test_run_bundle_shows_epochs_done_of_all(workplace, call, monkeypatch):
    monkeypatch.setattr(cli.bundles, "LINE_SECONDS", 0.0)
    files = bundle_files(workplace / "work")
    _, said, _ = call("run-bundle", *files, "--output", "done")
    lines = re.findall(r"bundle (\d) of 2: (\d+) of 12 epochs, [\d,]+ samples/s, .* left", said)
    assert lines == [(str(1 + n // 3), str(2 * n + 2)) for n in range(6)]


def test_run_bundle_goes_on_where_it_was_interrupted(workplace, call, monkeypatch):
    (file, _) = bundle_files(workplace / "work")
    call("run-bundle", file, "--output", "whole")

    real = bundles.train_bundle

    def interrupted(bundle, output, place, report):
        def after_two_epochs(progress):
            report(progress)
            if progress.done == 4:
                raise KeyboardInterrupt

        real(bundle, output, place, after_two_epochs)

    with monkeypatch.context() as patch:
        patch.setattr(bundles, "train_bundle", interrupted)
        assert call("run-bundle", file, "--output", "cut")[0] == 130
    assert not list(Path("cut").glob("*.csv"))
    monkeypatch.setattr(cli.bundles, "LINE_SECONDS", 0.0)
    _, said, _ = call("run-bundle", file, "--output", "cut")
    assert re.findall(r"(\d) of 6 epochs", said) == ["4", "6"]  # the first epoch is not done again
    (whole,), (cut_short,) = Path("whole").glob("*.csv"), Path("cut").glob("*.csv")
    assert whole.read_bytes() == cut_short.read_bytes()


def test_a_csv_without_its_provenance_is_not_done(workplace, call):
    (file, _) = bundle_files(workplace / "work")
    call("run-bundle", file, "--output", "done")
    (written,) = Path("done").glob("*.csv")
    (provenance,) = Path("done").glob("*.json")
    provenance.unlink()
    content = written.read_bytes()
    assert call("run-bundle", file, "--output", "done")[0] == 0
    assert provenance.exists() and written.read_bytes() == content


def test_files_that_are_no_bundles_are_refused(workplace, call):
    Path("broken.json").write_text("{}")
    assert "broken.json: not a bundle" in refused(
        call("run-bundle", "broken.json", "--output", "done")
    )
    assert "missing.json: not readable" in refused(
        call("run-bundle", "missing.json", "--output", "done")
    )
    assert not Path("done").exists()


@pytest.fixture
def small_study(workplace, monkeypatch) -> Path:
    """A study whose `paper` preset is small enough to be trained here."""
    Path("config").unlink()
    shutil.rmtree("studies")
    Path("studies/small").mkdir(parents=True)
    Path("config/presets").mkdir(parents=True)
    cell = small_cell().as_dict()
    del cell["seed"]
    grids = {"one": {"cell": cell, "axes": {"cluster.delay": [0, 2]}}}
    study = {"title": "small", "cite": "nobody", "grids": grids}
    Path("studies/small/study.yaml").write_text(json.dumps(study))
    preset = Preset(title="paper", seeds=2, bundle_size=2)
    Path("config/presets/paper.yaml").write_text(json.dumps(preset.model_dump()))
    return workplace


def test_from_bundles_to_the_archive(small_study, call):
    at_paper = ["--study", "small", "--preset", "paper"]
    assert "4 runs in 2 bundles" in call("bundles", *at_paper, "--output", "w")[1]
    files = sorted(Path("w").iterdir())
    call("run-bundle", *files, "--output", "done")
    outputs = sorted(Path("done").glob("*.csv"))
    assert "2 runs added" in call("archive", "--study", "small", outputs[0])[1]
    assert (
        "2 more are in studies/small/measured already"
        in call("bundles", *at_paper, "--output", "w2")[1]
    )
    _, said, _ = call("archive", "--study", "small", *outputs)
    assert "2 runs added to studies/small/measured, 4 now there" in said
    assert len(archived_runs(Path("studies/small/measured"))) == 4
    trained = pd.concat([pd.read_csv(path) for path in outputs]).set_index(["run", "epoch"])
    kept = archived_history(Path("studies/small/measured")).set_index(["run", "epoch"])
    pd.testing.assert_frame_equal(kept, trained.sort_index())


def test_runs_of_other_code_are_archived_with_a_note(small_study, call):
    call("run", *CELL, "--delay", "2", "--output", "own.csv")
    keep = ("archive", "--study", "small", "own.csv", "--archive-folder")
    assert call(*keep, "first")[::2] == (0, "")
    path = Path("own.csv.provenance.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": "of yesterday"}))
    status, _, said = call(*keep, "second")
    assert status == 0 and said.startswith("note: own.csv was made by other code")
    assert list(pd.read_csv("second/provenance.csv")["code"]) == ["of yesterday"]


def test_a_file_of_another_kind_is_refused(small_study, call):
    Path("notes.csv").write_text("name,what\na,b\n")
    said = refused(call("archive", "--study", "small", "notes.csv"))
    assert "notes.csv is not a readable CSV (it has no column run)" in said
    said = refused(call("verdicts", "notes.csv"))
    assert "it has no column study, claim, verdict" in said


def test_foreign_runs_and_lost_provenance_are_not_archived(small_study, call):
    call("run", *CELL, "--seed", "9", "--output", "foreign.csv")
    assert "is none of small at the preset 'paper'" in refused(
        call("archive", "--study", "small", "foreign.csv")
    )
    call("run", *CELL, "--delay", "2", "--output", "own.csv")
    Path("own.csv.provenance.json").unlink()
    assert "own.csv.provenance.json is not beside it" in refused(
        call("archive", "--study", "small", "own.csv")
    )
    assert not Path("studies/small/measured").exists()


# --- figure ---------------------------------------------------------------------------------------


def test_figures_that_cannot_be_drawn_are_refused(workplace, call):
    there = ["--results", "results/quick", "--output"]
    said = refused(call("figure", "fig2", *there, "a.pdf"))
    assert "no figure 'fig2'; there are " in said and "jain2018_fig2" in said
    assert "must end in .pdf or .png" in refused(call("figure", "jain2018_fig2", *there, "a.svg"))
    assert "results/quick/jain2018/runs.csv is not there" in refused(
        call("figure", "jain2018_fig2", *there, "a.pdf")
    )
    assert not Path("a.pdf").exists()


def test_field_texts_come_from_docstrings():
    from stalegrad.rules.adam import Adam

    texts = field_texts(Adam)
    assert texts["beta1"] == texts["beta2"] == "decay of the two means"
    assert texts["epsilon"] == "added to the root of the second"
    assert texts["lr"] == "learning rate"


def test_errors_keep_their_kind_when_flags_are_named():
    with pytest.raises(ConfigError, match="'--lr' is wrong"):
        with named_by_flag({"rule.lr": "--lr"}):
            raise ConfigError("'rule.lr' is wrong.")


def test_verdicts_are_counted_a_line_a_paper(tmp_path, capsys):
    path = tmp_path / "verdicts.csv"
    path.write_text(
        "study,claim,verdict,robustness\na,momentum_099_diverges,reproduced,stable\n"
        "long,two,partly,reproduced without seed 2\nlong,three,partly,\n"
    )
    (tmp_path / "figures").mkdir()
    (tmp_path / "report.pdf").touch()
    assert cli.main(["verdicts", str(path)]) == 0
    counted = [
        "a        1 reproduced    0 partly    0 not reproduced    0 cannot tell",
        "long     0 reproduced    2 partly    0 not reproduced    0 cannot tell",
        "all      1 reproduced    2 partly    0 not reproduced    0 cannot tell",
    ]
    where = [f"Report:   {tmp_path}/report.pdf", f"Figures:  {tmp_path}/figures/"]
    assert capsys.readouterr().out.splitlines() == [
        *counted,
        "",
        f"Claims:   stalegrad verdicts -v {path}",
        *where,
    ]
    assert cli.main(["verdicts", "-v", str(path)]) == 0
    listed = [
        *("", "a", "  reproduced       Momentum 0.99 diverges"),
        *("", "long", "  partly         ~ Two", "  partly           Three", ""),
        "~ fragile: half or double the threshold, or one seed less, gives another verdict",
    ]
    assert capsys.readouterr().out.splitlines() == [*counted, *listed, "", *where]
