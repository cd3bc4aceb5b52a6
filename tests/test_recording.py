"""Recordings: real processes train, replay gives their weights, and whatever dies is named."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import heed_interrupts, until

from stalegrad import cli
from stalegrad.io.errors import ConfigError, DataError
from stalegrad.io.traces import COMPLETE, part_of, read_trace
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import Cell, parse_cell
from stalegrad.problems import load_task
from stalegrad.recording import launch, links
from stalegrad.recording.dealing import Deal, Factors
from stalegrad.recording.plans import recorded_cell
from stalegrad.recording.processes import Processes
from stalegrad.recording.server import Recorded, Reporter, Settings, digest, record
from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Schedule, Workload
from stalegrad.training import replay, stepping
from stalegrad.training.backends import make_backend
from stalegrad.training.bundles import Place, plan_run, train_bundle

IMAGES = {"name": "lenet5", "dataset": "mnist", "train_samples": 320, "test_samples": 70}
CHAIN = {"name": "chain", "noise_samples": 640}
CPU = torch.device("cpu")
# Found by every Python that is started: the small data set passes for the published one there too.
SMALL_DATA = """
import stalegrad.io.datasets as datasets
datasets.SHA256 = datasets.SHA256 | {{"mnist": {hashes!r}}}
"""


def environment(**more: str) -> dict[str, str]:
    """That of a user who is under no launcher, whatever the tests run under."""
    launched = ("RANK", "WORLD_SIZE", "MASTER_", "SLURM_", "TORCHELASTIC_")
    own = {k: v for k, v in os.environ.items() if not k.startswith(launched)}
    return own | more


@pytest.fixture
def small(small_data, data_folder, tmp_path, monkeypatch) -> Path:
    """A copy of the small data set, for workers too: one that takes it for damaged renames it."""
    (tmp_path / "site").mkdir()
    text = SMALL_DATA.format(hashes=small_data[1])
    (tmp_path / "site" / "sitecustomize.py").write_text(text)
    path = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return shutil.copytree(data_folder, tmp_path / "data")


def cell_of(problem: dict, rule: dict, processes: dict, **more: object) -> Cell:
    values = {"problem": problem, "rule": rule, "cluster": processes, "batch_size": 16, "epochs": 2}
    return recorded_cell(values | more, "a test")


def recorded(cell: Cell, data: Path, output: Path, **settings: object) -> Recorded:
    """Recorded by this process as the server."""
    said: list[object] = []
    listener, place = links.listen(links.Place("127.0.0.1", 0))
    settings = Settings(output=output, data_folder=data, **settings)
    workers = cell.cluster.workers
    made = record(
        cell,
        settings,
        lambda: launch.open_store(place, listener, 60),
        lambda: launch.Started(workers, place, 60),
        Reporter(said.append, lambda done, total: None, said.append),
    )
    assert len(said) == 1 + cell.epochs  # waiting, and each epoch
    return made


def replayed(cell: Cell, file: Path) -> Cell:
    """The cell that replays a trace."""
    values = cell.as_dict() | {"cluster": {"name": "trace", "file": str(file)}}
    return parse_cell(values, "a test")


# ---- replay ----

MOMENTUM = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
RECORDINGS = {
    "asynchronous momentum": (
        MOMENTUM,
        {"delay_ms": 3.0, "delay_deviation_ms": 1.0, "delayed": "one"},
        "dataset",
    ),
    "K-batch Adam": (
        {"name": "adam", "lr": 0.002, "warmup_epochs": 1.0},
        {"minibatches_per_update": 2, "start": "ready"},
        "dataset",
    ),
    "asynchronous compensated": (
        {"name": "dc_asgd", "lr": 0.03, "momentum": 0.5, "compensation": 2.0},
        {"straggler": 6.0, "pull": "before"},
        "none",
    ),
    "synchronous momentum": (MOMENTUM, {"synchronous": True}, "dataset"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDINGS)
def test_replay_gives_the_recorded_weights_to_the_bit(name, small, tmp_path):
    rule, processes, partition = RECORDINGS[name]
    cell = cell_of(IMAGES, rule, {"workers": 3, **processes}, partition=partition)
    file = tmp_path / "trace.csv.gz"
    made = recorded(cell, small, file, accuracy="end")
    trace = read_trace(file)
    assert made.ended == trace.ended == COMPLETE
    assert set(trace.columns["worker"]) == {0, 1, 2}

    again = replayed(cell, file)
    weights = tmp_path / "weights.npz"
    train_bundle(
        Bundle((again,)), tmp_path / "out.csv", Place(small, "cpu", "cpu"), weights=weights
    )
    with np.load(weights) as content:
        last = content["weights"][-1]
    np.testing.assert_array_equal(made.weights.numpy(), last)
    assert trace.event("weights") == digest(torch.from_numpy(last))
    assert not np.array_equal(last, content_of_start(again, small))


def content_of_start(cell: Cell, data: Path) -> np.ndarray:
    task = load_task(cell.problem, data, CPU, torch.float32)
    return task.initial_weights(cell.seed).float().numpy()


@pytest.mark.slow
def test_replay_by_torch_in_float64_agrees_to_rounding(tmp_path):
    cell = cell_of(CHAIN, {"name": "adam", "lr": 0.01}, {"workers": 3}, epochs=4)
    file = tmp_path / "trace.csv"
    made = recorded(cell, tmp_path, file, precision="float64")
    again = replayed(cell, file)
    task = load_task(again.problem, tmp_path, CPU, torch.float64)
    run = plan_run(again, task.train[1].numpy()).run
    state = replay.start(task, [run], torch.float64)
    for _ in range(cell.epochs):
        state, _ = stepping.advance(task, [run], state, make_backend("torch", task))
    assert run.staleness[0][-1] > 0.5
    torch.testing.assert_close(state.weights[0], made.weights, rtol=1e-10, atol=1e-10)


def test_nothing_is_dealt_twice_and_what_is_given_back_is_dealt_again():
    processes = Processes(workers=2)
    shared = Deal(processes, Workload((3,), 1))
    assert [shared.next(0), shared.next(1)] == [(0, 0), (0, 1)]
    shared.give_back((0, 1))
    assert [shared.next(0), shared.next(0), shared.next(0)] == [(0, 1), (0, 2), None]
    own = Deal(processes, Workload((1, 2), 1))
    assert [own.next(1), own.next(0), own.next(0)] == [(1, 0), (0, 0), None]
    own.give_back((1, 0))  # a lost worker's data are nobody else's
    assert [own.next(1), own.next(1), own.total] == [(1, 1), None, 3]


def test_factors_are_those_of_the_schedule_that_will_have_been():
    rule = SGD(lr=0.1, warmup_epochs=1.5)
    read = np.array([0, 0, 1, 1, 3, 2])
    none = np.zeros(6, np.int32)
    schedule = Schedule(none, none * 1.0, read, none, none.astype(int), np.array([3, 6]))
    factors = Factors(rule, 6, 2, 1)
    assert [factors.next(int(each)) for each in read] == rule.step_factors(schedule).tolist()
    assert factors.hold(2)
    early = Factors(rule, 6, 2, 1)
    assert [early.next(0), early.next(0)] == factors.used[:2]
    assert not early.hold(2)  # two epochs of one gradient each would have warmed up faster
    assert Factors(SGD(lr=0.1), 6, 2, 1).next(0) is None


# ---- the command ----


def flags(problem: dict, output: Path, *more: str, epochs: int = 2) -> list[str]:
    named = {"--problem": problem["name"], "--noise-samples": problem["noise_samples"]}
    named |= {"--lr": 0.01, "--batch-size": 16, "--epochs": epochs, "--output": output}
    return ["record", *(str(word) for pair in named.items() for word in pair), *more]


@pytest.fixture
def server(tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `stalegrad`; at the end of the test nothing of it may be left."""
    started: list[subprocess.Popen] = []

    def start(*arguments: str, **more: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "stalegrad", *arguments],
            env=environment(**more),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that all of it can be ended below, and looked for
            preexec_fn=heed_interrupts,
        )
        started.append(process)
        return process

    yield start
    try:
        for process in started:
            assert ended(process.pid), f"the processes {of_session(process.pid)} are left"
    finally:
        for process in started:
            for pid in of_session(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.communicate()


def of_session(session: int) -> list[int]:
    """The processes that were started with a first one, itself included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def ended(session: int, seconds: float = 8.0) -> bool:
    end = time.monotonic() + seconds
    while of_session(session) and time.monotonic() < end:
        time.sleep(0.05)
    return not of_session(session)


def rows(file: Path) -> int:
    """Arrivals so far of a recording that goes on."""
    try:
        return read_trace(part_of(file)).arrivals
    except DataError:
        return 0


def begun(file: Path, process: subprocess.Popen, arrivals: int = 30) -> None:
    until(lambda: rows(file) >= arrivals, process)


LONG = ("--workers", "2", "--delay-ms", "5")


def worker_pids(process: subprocess.Popen) -> list[int]:
    return [pid for pid in of_session(process.pid) if pid != process.pid]


@pytest.mark.slow
def test_command_records_on_loopback_and_a_lost_worker_is_gone_on_without(server, tmp_path):
    file = tmp_path / "trace.csv"
    process = server(*flags(CHAIN, file, *LONG, "--on-lost-worker", "continue", epochs=10))
    begun(file, process)
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    ours = [
        line.split()[3]
        for line in listening.splitlines()
        if any(f"pid={pid}," in line for pid in of_session(process.pid))
    ]
    assert len(ours) >= 3  # the store, and the pairs of the server and its workers
    assert not [each for each in ours if not each.startswith("127.0.0.1:")]

    os.kill(worker_pids(process)[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    found = re.search(r"lost worker (\d) at [\d.]+ s: its connection was closed; training", said)
    assert found, said
    trace = read_trace(file)
    # What the lost worker had been dealt, another has computed: nothing of the data is left out.
    assert trace.arrivals == 400 and trace.ended.startswith(f"lost worker {found[1]} ")
    assert np.count_nonzero(trace.columns["worker"][-50:] == int(found[1])) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "why"),
    [(signal.SIGKILL, "its connection was closed"), (signal.SIGSTOP, "it sent nothing for too")],
)
def test_server_stops_where_a_worker_dies_or_hangs(number, why, server, tmp_path):
    file = tmp_path / "trace.csv.gz"
    process = server(*flags(CHAIN, file, *LONG, "--patience", "2", epochs=500))
    begun(file, process)
    os.kill(worker_pids(process)[1], number)
    said, _ = process.communicate(timeout=60)
    assert re.search(rf"lost worker \d at [\d.]+ s: {why}.*; the recording ends here", said), said
    assert read_trace(file).ended.startswith("lost worker") and rows(file) == 0


@pytest.mark.slow
def test_interrupt_leaves_a_whole_trace_and_no_process(server, tmp_path):
    file = tmp_path / "trace.csv"
    process = server(*flags(CHAIN, file, *LONG, epochs=500))
    begun(file, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in said, said
    trace = read_trace(file)
    assert trace.ended == f"interrupted after {trace.arrivals} of 20000 arrivals"
    assert not part_of(file).exists() and trace.arrivals >= 30


@pytest.mark.slow
def test_workers_of_a_killed_server_end_and_its_rows_are_there(server, tmp_path):
    file = tmp_path / "trace.csv"
    process = server(*flags(CHAIN, file, *LONG, epochs=500))
    begun(file, process)
    assert len(worker_pids(process)) == 2
    process.kill()
    process.communicate(timeout=30)
    assert ended(process.pid)
    assert not file.exists() and rows(file) >= 30
    assert read_trace(part_of(file)).ended is None


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


@pytest.mark.slow
def test_command_works_under_torchrun(server, tmp_path):
    file = tmp_path / "trace.csv"
    command = ["-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "3"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    done = subprocess.run(
        [sys.executable, *command, "-m", "stalegrad", *flags(CHAIN, file)],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trace = read_trace(file)
    assert trace.ended == COMPLETE and trace.workers == 2 and trace.arrivals == 80
    replays = subprocess.run(
        [sys.executable, "-m", "stalegrad", "run", "--trace", str(file)],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "its weights at the end are those recorded, to the bit" in replays.stdout, replays.stderr


# ---- what is refused, or does not come ----


def test_a_port_in_use_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = flags(CHAIN, tmp_path / "t.csv", "--workers", "2", "--port", str(port))
        assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use" in said
    assert "'--port'" in said and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_workers_that_never_connect_are_named(server, tmp_path):
    where = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    file = tmp_path / "trace.csv"
    command = flags(CHAIN, file, "--start-timeout", "1")
    said, _ = server(*command, RANK="0", **where).communicate(timeout=60)
    assert "worker 0 is not there: it did not connect within 1 s (nor were 1 there yet)" in said
    assert "'--start-timeout'" in said and not list(tmp_path.iterdir())
    process = server(*command, RANK="2", **where)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"there was no server on port {where['MASTER_PORT']} of 127.0.0.1 within 1 s" in said


@pytest.mark.slow
def test_a_worker_that_fails_before_it_connects_is_named(tmp_path, small, monkeypatch, capfd):
    cell = cell_of(IMAGES, MOMENTUM, {"workers": 2})
    (tmp_path / "site" / "sitecustomize.py").unlink()  # workers now find data they do not know
    with pytest.raises(links.LinkError) as error:
        recorded(cell, small, tmp_path / "trace.csv")
    assert re.search(
        r"worker \d is not there: its process \d+ has ended with exit status 2", str(error.value)
    )
    assert "stalegrad: worker " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"workers": 0}, "'cluster.workers' is 0"),
        ({"workers": 2, "minibatches_per_update": 3}, "more than the 2 workers"),
        ({"workers": 2, "minibatches_per_update": 2, "synchronous": True}, "leave the other out"),
        ({"workers": 2, "synchronous": True, "pull": "before"}, "get the weights after it"),
        ({"workers": 2, "compute_ms": 1.0}, "'cluster.compute_ms' is not a known key"),
    ],
)
def test_processes_that_cannot_be_are_refused(keys, said):
    with pytest.raises(ConfigError, match=said):
        cell_of(CHAIN, MOMENTUM, keys)


LAUNCHED = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_ID": "1"}


def test_roles_are_those_that_launchers_give():
    own = launch.role({}, None, None)
    assert (own.rank, own.workers, own.place) == (0, None, links.Place("127.0.0.1", 0, "lo"))
    torchrun = launch.role(LAUNCHED, None, None)
    assert (torchrun.rank, torchrun.workers, torchrun.place.port) == (1, 3, 29500)
    agents = launch.role(LAUNCHED | {"TORCHELASTIC_USE_AGENT_STORE": "True"}, None, 30000)
    assert agents.agents_store and agents.place.port == 29500
    srun = launch.role(SRUN | {"SLURM_JOB_ID": "7"}, None, None)
    assert (srun.rank, srun.workers, srun.place.port) == (2, 2, 20000 + 7 * 64 + 1)
    # In a batch script, outside of any step, nobody else was started.
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_JOB_ID": "7"}
    assert launch.role(batch, None, None).workers is None


@pytest.mark.parametrize(
    ("environment", "interface", "said"),
    [
        (LAUNCHED | {"WORLD_SIZE": "1"}, None, "started 1 process; a recording takes a server"),
        (LAUNCHED | {"MASTER_ADDR": "192.0.2.1"}, None, "'--interface'.*no authentication"),
        ({}, "no-such", "'--interface' is 'no-such', which has no IPv4 address here; there are: "),
    ],
)
def test_places_that_cannot_be_reached_are_refused(environment, interface, said):
    with pytest.raises(ConfigError, match=said):
        launch.role(environment, interface, None)


def test_help_says_that_nobody_is_asked_who_he_is(capsys):
    with pytest.raises(SystemExit):
        cli.main(["record", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Torch's rendezvous has no authentication" in said


def test_notes_say_what_was_recorded():
    """The committed trace, which was recorded by this command."""
    trace = read_trace(Path(__file__).parent / "recordings" / "chain.csv.gz")
    assert json.loads(trace.about["processes"])["workers"] == trace.workers == 3
    start = json.loads(trace.event("worker 2"))
    assert start["born"] < start["ready"] < start["connected"] < 0
    assert json.loads(trace.event("server"))["mean_ms"] < 5
