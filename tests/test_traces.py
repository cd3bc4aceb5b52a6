"""Traces: what is written is read, what cannot have happened is refused, and cells replay them."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stalegrad import cli
from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.clusters.heterogeneous import Heterogeneous
from stalegrad.clusters.hub_and_spoke import HubAndSpoke
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.clusters.trace import Trace
from stalegrad.io.errors import ConfigError, DataError, OutputError
from stalegrad.io.traces import COMPLETE, TraceWriter, part_of, read_trace
from stalegrad.planning.cell import parse_cell
from stalegrad.schedule import Schedule, Workload
from stalegrad.staleness.compute_times import Exponential, Gamma

RECORDED = Path(__file__).parent / "recordings" / "chain.csv.gz"
LINES = gzip.decompress(RECORDED.read_bytes()).decode().splitlines()
NAMES = next(i for i, line in enumerate(LINES) if not line.startswith("#"))
COLUMNS = LINES[NAMES].split(",")
CELL = {
    "problem": {"name": "chain"},
    "rule": {"name": "sgd", "lr": 0.1},
    "batch_size": 10,
    "epochs": 3,
}


def lines_of(schedule: Schedule, workers: int) -> list[str]:
    """A schedule as somebody else would write it down, with no moment but the needed one."""
    columns = (schedule.worker, schedule.read_version, schedule.stream, schedule.batch)
    rows = zip(range(schedule.arrivals), *columns, schedule.time.tolist(), strict=True)
    return [
        "# stalegrad-trace: 1",
        f"# workers: {workers}",
        f"# arrivals_per_update: {schedule.arrivals_per_update}",
        "arrival,worker,version,stream,minibatch,applied",
        *(",".join(map(repr, map(float_or_int, row))) for row in rows),
        "# ended: complete",
    ]


def float_or_int(number: object) -> float | int:
    return number if isinstance(number, float) else int(number)


def written(file: Path, lines: list[str]) -> Path:
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


# ---- schedules as traces ----


def server_of(way: dict, **keys: object) -> ParameterServer:
    return ParameterServer(**keys, **way)


CLUSTERS = st.one_of(
    st.builds(
        server_of,
        workers=st.integers(1, 6),
        compute_ms=st.floats(0.5, 20.0),
        jitter=st.floats(0, 0.5),
        delay_ms=st.sampled_from([0.0, 30.0]),
        delayed=st.sampled_from(["all", "one", "only"]),
        network_ms=st.sampled_from([0.0, 1.0]),
        way=st.sampled_from([{"pull": "after"}, {"pull": "before"}, {"synchronous": True}]),
    ),
    st.builds(
        HubAndSpoke,
        workers=st.integers(3, 6),
        minibatches_per_update=st.integers(1, 3),
        communication_time=st.floats(0, 3),
        compute_time=st.builds(Gamma, a=st.floats(0.5, 5)),
    ),
    st.builds(
        Heterogeneous,
        workers=st.integers(1, 6),
        slowest=st.floats(1, 9),
        compute_time=st.just(Exponential()),
        barrier=st.booleans(),
    ),
)


def read_back(schedule: Schedule, workers: int, workload: Workload, **keys: object) -> Schedule:
    with TemporaryDirectory() as folder:
        file = written(Path(folder) / "trace.csv", lines_of(schedule, workers))
        cluster = Trace(file=str(file), **keys)
        return cluster.simulate(workload, np.random.default_rng())


def assert_same(one: Schedule, other: Schedule) -> None:
    for name in ("worker", "time", "read_version", "stream", "batch"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert one.arrivals_per_update == other.arrivals_per_update


@settings(deadline=None, max_examples=60)
@given(CLUSTERS, st.booleans(), st.integers(1, 3), st.integers(0, 9))
def test_any_simulated_schedule_reads_back_the_same(cluster, own, epochs, seed):
    # Workers of `heterogeneous` take as many of their minibatches as they are fast.
    own = own and not isinstance(cluster, Heterogeneous)
    workload = Workload((12,) * cluster.workers if own else (60,), epochs)
    schedule = cluster.simulate(workload, np.random.default_rng(seed))
    found = read_back(schedule, cluster.workers, workload)
    assert_same(found, schedule)
    np.testing.assert_array_equal(found.epoch_ends, schedule.epoch_ends)


def test_gradients_that_never_arrive_leave_a_trace_unfinished():
    workload = Workload((20,), 2)
    schedule = ConstantDelay(delay=3).simulate(workload, np.random.default_rng())
    assert_same(read_back(schedule, 4, workload, unfinished=True), schedule)
    with pytest.raises(ValueError, match="has 37 gradients of data stream 0, which has 40"):
        read_back(schedule, 4, workload)


# ---- what is refused ----


@dataclass(frozen=True)
class Wrong:
    """A trace in which one value is another, and what is said of it."""

    row: int
    column: str
    value: str
    said: str


WRONGS = [
    Wrong(5, "arrival", "6", "6, but arrivals are numbered 0, 1, 2"),
    Wrong(0, "worker", "3", "3, but there are 3 workers, 0 to 2"),
    Wrong(7, "worker", "-1", "-1, but it counts from 0"),
    Wrong(7, "worker", "one", "'one' is not a whole number"),
    Wrong(7, "worker", "1.0", "'1.0' is not a whole number"),
    Wrong(2, "version", "3", "3, but that many updates had not been made"),
    Wrong(900, "version", "0", "0, but its worker had read a later one"),
    Wrong(9, "minibatch", "0", "0, but its stream had this minibatch before"),
    Wrong(9, "applied", "0.000001", "1e-06, but"),
    Wrong(9, "applied", "inf", "inf, but a moment is a finite number"),
    Wrong(9, "applied", "soon", "'soon' is not a number of seconds"),
    Wrong(20, "start", "0.0", "0.0, but 'read' comes before it"),
    Wrong(20, "read", "0.0", "0.0, but"),
    Wrong(1226, "applied", "nan", "nan, but a moment is a finite number"),
]


@pytest.mark.parametrize("wrong", WRONGS, ids=lambda wrong: f"{wrong.column} {wrong.value}")
def test_what_cannot_have_happened_is_refused_by_row_and_column(wrong, tmp_path, capsys):
    number = [i for i, line in enumerate(LINES) if i > NAMES and line[0] != "#"][wrong.row]
    words = LINES[number].split(",")
    words[COLUMNS.index(wrong.column)] = wrong.value
    lines = [*LINES[:number], ",".join(words), *LINES[number + 1 :]]
    file = written(tmp_path / "trace.csv", lines)
    where = f"{file}, row {wrong.row} (line {number + 1}), column '{wrong.column}': "
    with pytest.raises(DataError) as refusal:
        read_trace(file)
    assert str(refusal.value).startswith(where + wrong.said)
    assert cli.main(["trace", "check", str(file)]) == 2
    assert where in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[1:], "its first line must be '# stalegrad-trace: 1'"),
        (lambda lines: ["# stalegrad-trace: 2", *lines[1:]], "reads '1'"),
        (lambda lines: lines[:NAMES], "no row with the names of the columns"),
        (lambda lines: [*lines[: NAMES + 1], lines[-1]], "there are no arrivals"),
        (lambda lines: [x.replace(",version,", ",") for x in lines], "'version' is missing"),
        (lambda lines: [x.replace(",version,", ",age,") for x in lines], "'version' is missing"),
        (lambda lines: [x.replace(",sent,", ",sort,") for x in lines], "'sort' is not known"),
        (lambda lines: [x.replace(",sent,", ",end,") for x in lines], "'end' is there twice"),
        (lambda lines: [*lines[:-9], "1,2", *lines[-9:]], "2 values, not 11"),
        (lambda lines: [*lines[:-9], "# so", *lines[-9:]], "'# so' is no note"),
        (lambda lines: [x.replace("workers: 3", "workers: 0") for x in lines], "'workers' is '0'"),
        (lambda lines: ["# stalegrad-trace: 1", "# clock_error: x", *lines[1:]], "'clock_error'"),
    ],
)
def test_a_file_of_another_form_is_refused(change, said, tmp_path):
    with pytest.raises(DataError) as refusal:
        read_trace(written(tmp_path / "trace.csv", change(LINES)))
    assert said in str(refusal.value)


def test_damaged_files_are_refused(tmp_path):
    short, text = tmp_path / "short.csv.gz", tmp_path / "text.csv"
    short.write_bytes(RECORDED.read_bytes()[:-100])
    text.write_bytes(b"\xff\xfe")
    for file, said in ((short, "cut short"), (text, "is not text"), (tmp_path / "no", "No such")):
        with pytest.raises(DataError, match=said):
            read_trace(file)


def test_clocks_of_several_machines_may_differ_by_as_much_as_is_said(tmp_path):
    lines = [
        "# stalegrad-trace: 1",
        "# clock_error: 0.01",
        "arrival,worker,version,stream,minibatch,sent,arrived,applied",
        "0,0,0,0,0,0.105,0.100,0.101",
        "# ended: complete",
    ]
    assert read_trace(written(tmp_path / "a.csv", lines)).arrivals == 1
    with pytest.raises(DataError, match="'sent' comes before it"):
        read_trace(written(tmp_path / "b.csv", [lines[0], *lines[2:]]))


# ---- cells ----


def cell_of(file: Path, **keys: object) -> object:
    cluster = {"name": "trace", "file": str(file)}
    return parse_cell({**CELL, "cluster": cluster, **keys}, "a test")


def test_the_content_of_a_trace_is_part_of_the_hash(tmp_path):
    lines = [*LINES[:-1], "# note: another", LINES[-1]]
    (tmp_path / "a").mkdir()
    one = cell_of(written(tmp_path / "trace.csv", LINES))
    hashes = {one.hash, cell_of(written(tmp_path / "a" / "trace.csv", lines)).hash}
    assert len(hashes) == 2


def test_cells_that_a_trace_does_not_fit_are_refused_before_any_job(tmp_path):
    for keys, said in (
        ({"epochs": 2}, "goes up to minibatch 1226 of data stream 0, which has 818"),
        ({"epochs": 4}, "has 1227 gradients of data stream 0, which has 1636"),
        ({"batch_size": 20}, "goes up to minibatch 1226 of data stream 0"),
        ({"partition": "dataset"}, "goes up to minibatch"),
    ):
        with pytest.raises(ConfigError, match=said):
            cell_of(RECORDED, **keys)
    with pytest.raises(ConfigError, match="names the file .*gone.csv, which is not there"):
        cell_of(tmp_path / "gone.csv")
    bad = written(tmp_path / "bad.csv", LINES[1:])
    with pytest.raises(DataError, match="is no trace"):
        cell_of(bad)


def test_own_streams_are_not_those_of_a_shared_partition(tmp_path):
    workload = Workload((12, 12, 12), 1)
    cluster = ParameterServer(workers=3, compute_ms=1.0)
    schedule = cluster.simulate(workload, np.random.default_rng(1))
    file = written(tmp_path / "own.csv", lines_of(schedule, 3))
    with pytest.raises(ValueError, match="3 data streams, and with this 'partition' there is 1"):
        Trace(file=str(file)).check(Workload((36,), 1))


@pytest.mark.parametrize("ended", ["interrupted after 1227 of 4000 arrivals", None])
def test_unfinished_traces_are_taken_only_if_asked_for(ended, tmp_path):
    lines = [*LINES[:-1], *([f"# ended: {ended}"] if ended else [LINES[-2][:10]])]
    file = tmp_path / "trace.csv"
    file.write_text("\n".join(lines) + ("\n" if ended else ""))  # cut in the middle of a line
    assert read_trace(file).ended == ended
    with pytest.raises(ConfigError, match=f"is not complete.*{ended or 'was cut short'}"):
        cell_of(file)
    values = {**CELL, "cluster": {"name": "trace", "file": str(file), "unfinished": True}}
    assert parse_cell({**values, "epochs": 4}, "a test").cluster.in_flight() in (2, 3)


# ---- writing ----


def test_a_trace_is_written_as_it_goes_and_has_its_name_once_it_is_closed(tmp_path):
    file = tmp_path / "folder" / "trace.csv.gz"
    writer = TraceWriter(file, {"workers": "2", "why": "two\nlines"})
    writer.row((0, 1, 0, 0, 0), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    part = part_of(file)
    assert read_trace(part).arrivals == 1 and read_trace(part).ended is None
    with pytest.raises(OutputError, match="another recording is being written, or one was killed"):
        TraceWriter(file, {})
    writer.close(COMPLETE)
    found = read_trace(file)
    assert found.ended == COMPLETE and not part.exists()
    assert found.about["why"] == "two lines" and found.columns["applied"].tolist() == [0.6]
    with pytest.raises(OutputError, match="is there already, and a recording is never replaced"):
        TraceWriter(file, {})


def test_check_says_what_a_trace_holds(tmp_path, capsys):
    assert cli.main(["trace", "check", str(RECORDED)]) == 0
    said = capsys.readouterr().out
    assert "1,227 gradients of 3 workers" in said and "complete" in said
    part = written(tmp_path / "trace.part", LINES[:-1])
    assert cli.main(["trace", "check", str(part)]) == 0
    assert "not closed" in capsys.readouterr().out
