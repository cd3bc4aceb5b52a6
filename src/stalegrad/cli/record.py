"""`stalegrad record`: real asynchronous training by a server and workers, recorded as a trace."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from stalegrad.cli.cell_flags import (
    add_cell_flags,
    add_choices,
    add_fields,
    flags_of,
    values_of,
)
from stalegrad.cli.flags import (
    Commands,
    Parser,
    add_data_flag,
    count,
    examples,
    named_by_flag,
    path,
    seconds,
)
from stalegrad.io.errors import ConfigError, StalegradError

if TYPE_CHECKING:
    from stalegrad.planning.cell import Cell
    from stalegrad.recording.connections import Workers
    from stalegrad.recording.evaluations import EpochDone
    from stalegrad.recording.launch import Role
    from stalegrad.recording.server import Recorded, Settings

_PARTS = {"problem": "problems", "rule": "rules"}  # that are chosen by name


def add_record(commands: Commands, arguments: Sequence[str] | None) -> None:
    """arguments: those after `record`, or None where another command was called."""
    choice = Parser(prog="stalegrad record", add_help=False)
    chosen = add_choices(choice, arguments, _PARTS) if arguments is not None else None
    parser = commands.add_parser(
        "record",
        parents=[choice],
        help="train by real processes, and record who did what when",
        description=(
            "Train by a parameter server and workers that are real processes, and record each\n"
            "gradient in a trace: who computed it, at which weights, and when. `stalegrad run\n"
            "--trace FILE` replays it to the same weights.\n"
            "The server starts the workers itself, on this machine; under torchrun or srun, which\n"
            "have started all, rank 0 is the server and the others are the workers."
        ),
        epilog=examples(
            "stalegrad record --dataset mnist --lr 0.01 --batch-size 64 --epochs 2 --workers 4",
            "stalegrad record --dataset fashion_mnist --normalize --lr 0.005 --momentum 0.9 \\",
            "    --batch-size 32 --epochs 6 --partition labels --workers 10 \\",
            "    --delay-ms 90 --delayed one --output traces/ten.csv.gz",
            "srun -n 5 stalegrad record --dataset mnist --lr 0.01 --batch-size 64 --epochs 2",
        ),
    )
    if chosen is not None:
        from stalegrad.recording.processes import Processes

        add_cell_flags(parser, chosen, _PARTS)
        add_fields(parser.add_argument_group("processes"), Processes, "cluster.")
    parser.add_argument(
        "--output",
        type=path,
        metavar="FILE",
        help="the trace; compressed where it ends in .gz; default: results/traces/<hash>.csv",
    )
    _add_how(parser)
    _add_where(parser)
    parser.set_defaults(act=_record, chosen=chosen)


def _add_how(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how", "None of these decides what is trained.")
    group.add_argument("--backend", choices=("auto", "cpu", "torch"), default="auto")
    group.add_argument(
        "--precision", choices=("float32", "float64"), default="float32", help="default: float32"
    )
    group.add_argument(
        "--accuracy",
        choices=("epoch", "end", "never"),
        default="epoch",
        help="evaluate each epoch while training goes on, or all at the end, which leaves the "
        "processor to the workers; default: epoch",
    )
    group.add_argument(
        "--on-lost-worker",
        choices=("stop", "continue"),
        default="stop",
        help="what to do where a worker dies or hangs; synchronous workers always stop; default: "
        "stop",
    )
    group.add_argument(
        "--patience",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="a worker that sends nothing for so long counts as lost; default: 60",
    )
    add_data_flag(group)


def _add_where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where the processes meet")
    group.add_argument(
        "--interface",
        metavar="NAME",
        help="the network interface between the machines; default: loopback, which no other "
        "machine reaches. Torch's rendezvous has no authentication: whoever reaches the interface "
        "can join, so name none that others share",
    )
    group.add_argument(
        "--port", type=count, metavar="N", help="of the server; default: one that is free"
    )
    group.add_argument(
        "--start-timeout",
        type=seconds,
        default=120.0,
        metavar="SECONDS",
        help="how long to wait for a process that has not connected; default: 120",
    )


def _record(options: argparse.Namespace) -> None:
    from stalegrad.recording import launch, worker

    role = launch.role(os.environ, options.interface, options.port)
    # What SLURM and torchrun end a process by; it is to close the trace.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if role.rank:
            worker.run(role.rank - 1, role.place, options.start_timeout)
        else:
            _serve(options, role)
    except KeyboardInterrupt:
        print("stalegrad: interrupted.", file=sys.stderr)
        _leave(role, 130)
    except StalegradError as error:
        if role.workers is None:
            raise
        print(f"stalegrad: {error}", file=sys.stderr)
        _leave(role, 2)


def _leave(role: "Role", status: int) -> NoReturn:
    """End this process; without waiting for links to workers that others have started, which
    notice it by that (see `Connections.still_open`)."""
    sys.stdout.flush()
    sys.stderr.flush()
    if role.workers is not None:
        os._exit(status)
    sys.exit(status)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _serve(options: argparse.Namespace, role: "Role") -> None:
    from stalegrad.recording import launch, links
    from stalegrad.recording.server import record

    cell = _cell_of(options, role)
    settings = _settings_of(options, role, cell)
    print(f"recording {cell.hash} to {settings.output}", flush=True)
    with ExitStack() as stack:
        listener, place = None, role.place
        if not role.agents_store:
            listener, place = links.listen(place)
            stack.callback(listener.close)

        def begin() -> "Workers":
            if role.workers is not None:
                return launch.OfLauncher()
            return launch.Started(cell.cluster.workers, place, settings.start_timeout)

        lines = stack.enter_context(_Lines(cell.epochs))
        try:
            recorded = record(
                cell,
                settings,
                lambda: launch.open_store(place, listener, settings.start_timeout),
                begin,
                lines.reporter(),
            )
        except KeyboardInterrupt:
            if settings.output.exists():
                print(f"all that had arrived is in {settings.output}", flush=True)
            raise
    print(_summary(recorded), flush=True)
    if recorded.still_open:
        _leave(role, 0)


def _cell_of(options: argparse.Namespace, role: "Role") -> "Cell":
    """The cell that the flags describe. Raises ConfigError naming the flags."""
    from stalegrad import specs
    from stalegrad.recording.plans import recorded_cell
    from stalegrad.recording.processes import Processes

    where = "command line"
    classes = {p: specs.spec_class(k, options.chosen[p]["name"]) for p, k in _PARTS.items()}
    values = values_of(options, where)
    processes = dict(values.get("cluster", {}))
    if role.workers is not None:
        if processes.setdefault("workers", role.workers) != role.workers:
            raise ConfigError(
                f"'--workers' is {processes['workers']}, but {role.workers + 1} processes were "
                f"started: a server and {role.workers} workers; leave the flag out."
            )
    with named_by_flag(flags_of(classes | {"cluster": Processes})):
        return recorded_cell(values | {"cluster": processes}, where)


def _settings_of(options: argparse.Namespace, role: "Role", cell: "Cell") -> "Settings":
    from stalegrad.recording.server import Settings

    return Settings(
        output=options.output or Path("results") / "traces" / f"{cell.hash}.csv",
        data_folder=options.data_folder,
        interface=role.place.interface,
        backend=options.backend,
        precision=options.precision,
        start_timeout=options.start_timeout,
        patience=options.patience,
        on_lost=options.on_lost_worker,
        accuracy=options.accuracy,
    )


class _Lines:
    """One line an epoch as it comes, above a bar of the gradients where there is a terminal."""

    def __init__(self, epochs: int):
        from tqdm import tqdm

        self._bar, self._epochs = tqdm(unit="gradient", disable=None, leave=False), epochs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def reporter(self) -> Any:
        from stalegrad.recording.server import Reporter

        return Reporter(self._say, self._arrived, self._epoch)

    def _say(self, sentence: str) -> None:
        with self._bar.external_write_mode():
            print(sentence, flush=True)

    def _arrived(self, arrivals: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(arrivals - self._bar.n)

    def _epoch(self, done: "EpochDone") -> None:
        metrics = {"train_loss": done.train_loss, **done.metrics}
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._say(f"epoch {done.epoch:3} of {self._epochs}  {text}  at {done.seconds:.1f} s")


def _summary(recorded: "Recorded") -> str:
    from stalegrad.io.traces import COMPLETE

    busy = 1_000 * recorded.busy
    rate = recorded.arrivals / max(recorded.seconds, 1e-9)
    how = "complete" if recorded.ended == COMPLETE else recorded.ended
    return (
        f"{how}: {recorded.arrivals:,} gradients in {recorded.seconds:.1f} s ({rate:,.0f}/s), each "
        f"{busy.mean():.2f} ms of the server; written to {recorded.output}; replay it with "
        f"`stalegrad run --trace {recorded.output}`"
    )
