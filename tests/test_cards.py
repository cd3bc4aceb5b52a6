"""Cards: which there are, and one for each bundle. No test needs one, nor a PyTorch for CUDA."""

import os
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkout import Checkout
from helpers import small_cell

from stalegrad.io.cache import CACHE, cache_folder
from stalegrad.io.errors import LockedError
from stalegrad.io.files import held
from stalegrad.planning.bundle import Bundle
from stalegrad.training import backends, cards
from stalegrad.training.bundles import Place, train_bundle
from stalegrad.training.cards import Card

FIRST, SECOND = "GPU-1111-aa", "GPU-2222-bb"
BOTH = (Card("0", FIRST), Card("1", SECOND))


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(cards.VISIBLE, "")  # what a test sets is taken back, whatever it was
    monkeypatch.delenv(cards.VISIBLE)


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """(lines of nvidia-smi, its exit status) -> as if a driver said so."""

    def says(lines: str, status: int = 0) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(lines)}\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return says


# ---- which there are ----


@pytest.mark.parametrize(
    "shown, wanted",
    [
        (None, BOTH),
        ("1", (Card("1", SECOND),)),
        ("1, 0", (Card("1", SECOND), Card("0", FIRST))),
        ("GPU-2222", (Card("GPU-2222", SECOND),)),
        ("MIG-33/1/0", (Card("MIG-33/1/0", "MIG-33/1/0"),)),
        ("0,7,1", (Card("0", FIRST),)),  # CUDA ends its list there
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
    ],
)
def test_cards_are_those_that_cuda_would_see(shown, wanted, driver, monkeypatch):
    driver(f"{FIRST}\n{SECOND}")
    if shown is not None:
        monkeypatch.setenv(cards.VISIBLE, shown)
    assert cards.cards() == wanted


def test_without_a_driver_there_is_no_card(driver, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert cards.cards() == ()
    driver("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9)
    assert cards.cards() == ()
    driver(FIRST, 9)
    assert cards.cards() == ()
    driver("No devices were found")
    assert cards.cards() == ()


def test_a_pytorch_without_cuda_uses_no_card(driver, monkeypatch):
    driver(FIRST)
    assert cards.built_for_cuda() == (torch.version.cuda is not None)
    for built, device, found in ((True, "auto", 1), (True, "cpu", 0), (False, "cuda", 0)):
        monkeypatch.setattr(cards, "built_for_cuda", lambda built=built: built)
        assert len(cards.usable(device)) == found


def test_nothing_is_imported_to_know(driver):
    driver(FIRST)
    code = "from stalegrad.training import cards; cards.usable('auto'); import sys; "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_asking_for_a_device_does_not_start_cuda(monkeypatch):
    """Or the card could not be chosen any more."""
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    asked = []

    def available():
        asked.append(os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"])
        return True

    monkeypatch.setattr(torch.cuda, "is_available", available)
    assert backends.resolve_device("auto").type == "cuda" and asked == ["1"]


# ---- one for each ----

HOLDING = """
import os, sys
from stalegrad.training import cards
cards.built_for_cuda = lambda: True
with cards.own_card("auto") as card:
    print(card.shown, os.environ[cards.VISIBLE], flush=True)
    sys.stdin.readline()
"""


@contextmanager
def another() -> Iterator[subprocess.Popen]:
    """A process that holds a card until it is given a line."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", HOLDING], **pipes, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen) -> str:
    """What it says first, on either stream."""
    ready, _, _ = select.select([process.stdout, process.stderr], [], [], 60)
    return ready[0].readline() if ready else ""


def test_processes_take_a_card_each_and_a_third_waits(driver):
    driver(f"{FIRST}\n{SECOND}")
    with ExitStack() as stack:
        taken = []
        for _ in range(2):
            taken.append(stack.enter_context(another()))
            assert taken[-1].stdout.readline() == f"{len(taken) - 1} {len(taken) - 1}\n"
        three = stack.enter_context(another())
        said = first_line(three)
        assert "is being worked on by process" in said
        assert "and so are all 2 cards; waiting for a card." in said
        taken[1].communicate("\n")
        assert three.stdout.readline() == "1 1\n"


def test_a_card_is_free_again_once_its_process_is_killed(driver):
    driver(FIRST)
    with another() as one:
        assert one.stdout.readline() == "0 0\n"
        with another() as two:
            assert "waiting for a card" in first_line(two)
            one.kill()
            assert two.stdout.readline() == "0 0\n"


def lock() -> Path:
    return cache_folder() / "cards" / FIRST


def test_a_bundle_holds_its_card_until_it_is_done(tmp_path, data_folder, monkeypatch):
    monkeypatch.setattr(cards, "usable", lambda device: BOTH if device != "cpu" else ())
    seen = []

    def report(progress):
        with pytest.raises(LockedError), held(lock()):
            pass
        seen.append(os.environ[cards.VISIBLE])

    bundle = Bundle((small_cell(epochs=2),))
    train_bundle(bundle, tmp_path / "out.csv", Place(data_folder, "auto", "torch"), report)
    assert seen == ["0", "0"]
    with held(lock()):
        train_bundle(bundle, tmp_path / "cpu.csv", Place(data_folder, "cpu", "torch"))


def test_a_process_that_has_started_cuda_keeps_to_its_card(monkeypatch):
    monkeypatch.setattr(cards, "usable", lambda device: BOTH)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with cards.own_card("auto") as card:
        assert card == BOTH[1]


def test_without_a_folder_for_locks_training_goes_on(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "below"))
    monkeypatch.setattr(cards, "usable", lambda device: BOTH)
    with cards.own_card("auto") as card:
        assert card == BOTH[0]
    assert "note: the card is not locked, because" in capsys.readouterr().err


# ---- which backend ----


def test_the_backend_of_a_card_is_looked_up_in_a_table(lenet, monkeypatch):
    """Which a measurement can change: see `benchmarks/gpu`."""
    on_card = SimpleNamespace(device=torch.device("cuda"))
    task = SimpleNamespace(
        name="lenet5",
        train=(on_card, on_card),
        together=lenet.together,
        noise=0,
        test_chunk=1,
        gradients=None,
        loss=lenet.loss,
        metrics=lenet.metrics,
        parameters=lenet.parameters,
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert backends.make_backend("auto", task).name == "batched"
    rows = (("NVIDIA H100*", "batched"), ("NVIDIA H2?0", "torch"), ("*", "batched"))
    monkeypatch.setattr(backends, "ON_CARD", rows)
    assert backends.make_backend("auto", task).name == "torch"
    assert backends.make_backend("batched", task).name == "batched"
    task.noise = 3  # which no static step can draw
    monkeypatch.setattr(backends, "ON_CARD", (("*", "batched"),))
    assert backends.make_backend("auto", task).name == "torch"


def test_auto_keeps_float32_on_every_card():
    patterns, chosen = zip(*backends.ON_CARD, strict=True)
    assert patterns[-1] == "*" and set(chosen) <= {"batched", "torch"}


# ---- Snakemake ----

# Found by every Python of a run: cards that are not there, and jobs that say when they train.
FAKE = """
import os, sys, time
from stalegrad.training import cards
names = os.environ["FAKE_CARDS"].split(",")
found = tuple(cards.Card(name, "GPU-" + name) for name in names)
cards.usable = lambda device: found if device != "cpu" else ()
if sys.orig_argv[-1].endswith("train_bundle.py"):
    from stalegrad.io.files import provenance_path
    from stalegrad.training import bundles

    def say(what):
        with open(os.environ["FAKE_LOG"], "a") as log:
            log.write(f"{what} {os.environ.get(cards.VISIBLE)}\\n")

    def train(bundle, output, place, report, weights):
        say("begins")
        time.sleep(1)
        output.write_text("run\\n")
        provenance_path(output).write_text("{}")
        say("ends")

    bundles._train = train
"""


def trained_on(site: Checkout, names: str, *flags: str) -> tuple[list[set[str]], str]:
    """The cards in use at each begin and end of a job, and all that is said."""
    (site.folder / "sitecustomize.py").write_text(FAKE)
    path = os.pathsep.join([str(site.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    log = site.folder / "log"
    done = site.run(*flags, *site.targets(), PYTHONPATH=path, FAKE_CARDS=names, FAKE_LOG=str(log))
    assert done.returncode == 0, done.stdout[-5000:]
    busy: set[str] = set()
    seen = []
    for line in log.read_text().splitlines():
        what, card = line.split()
        assert (card in busy) == (what == "ends"), "two jobs on one card"
        busy ^= {card}
        seen.append(set(busy))
    logs = "".join(path.read_text() for path in (site.results / "logs").rglob("*.log"))
    return seen, done.stdout + logs


@pytest.mark.slow
@pytest.mark.parametrize(
    "names, flags, at_once",
    [("0", (), 1), ("0,1", (), 2), ("0,1", ("--resources", "gpu=1"), 1)],
    ids=["one card", "two cards", "one of two"],
)
def test_snakemake_starts_as_many_bundles_as_there_are_cards(names, flags, at_once, tmp_path):
    site = Checkout.make(tmp_path, "--cores", "4")
    site.has_one_study(epochs=200, dimensions=(17, 18, 19))
    seen, said = trained_on(site, names, *flags)
    assert len(seen) == 6 and max(map(len, seen)) == at_once
    assert "gpu=1" in said and "waiting for a card" not in said


@pytest.mark.slow
def test_snakemake_asks_for_no_card_where_training_is_on_the_cpu(tmp_path):
    site = Checkout.make(tmp_path, "--cores", "4", "--dry-run")
    site.has_one_study(epochs=200)
    config = site.folder / "config" / "config.yaml"
    config.write_text(config.read_text().replace("device: auto", "device: cpu"))
    (site.folder / "sitecustomize.py").write_text(FAKE)
    path = os.pathsep.join([str(site.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = site.run(*site.targets(), PYTHONPATH=path, FAKE_CARDS="0", FAKE_LOG="log")
    assert done.returncode == 0 and "train_bundle" in done.stdout and "gpu=1" not in done.stdout
