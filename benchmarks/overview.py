"""One table of what is fast, against what, and how far it is from what the machine allows.

Of the build of the kernels that STALEGRAD_ARCHITECTURE names; `benchmarks/run` makes a table of
each build that the machine can run. A row is two rates measured in turn in this one process, since
the rates of a shared machine wander, and so is the limit. Time is the processor's, which other
programs change little, save in the row about cores, which needs the machine to itself. The last
columns name what limits a row and the share of that limit which it reaches; where no limit is known
there is none.

    python benchmarks/overview.py [--markdown] [--quick]      # needs MNIST and Fashion-MNIST
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import builds

os.environ.update(builds.ONE_THREAD)

import lamour2023  # noqa: E402
import large_cnn  # noqa: E402
import least_squares  # noqa: E402
import peak  # noqa: E402
import replay  # noqa: E402
import schedules  # noqa: E402
import threadpoolctl  # noqa: E402
import torch  # noqa: E402
from table import Row, beyond_the_limit, show  # noqa: E402

from stalegrad.problems.lenet5 import NETWORK, LeNet5  # noqa: E402
from stalegrad.training import kernels  # noqa: E402
from stalegrad.training.backends import make_backend  # noqa: E402
from stalegrad.training.machine import cores, describe_machine  # noqa: E402

BATCH, RUNS = 64, 16
PLAIN = "plain PyTorch, one run"
ARRIVALS = 1_000_000


def networks(data_folder: Path, seconds: float, repeats: int) -> Iterator[Row]:
    """LeNet-5: whole training steps, gradients and evaluation, and all cores."""
    idle = is_idle()  # asked before this itself makes work
    task = LeNet5(dataset="mnist").load(data_folder, torch.device("cpu"), torch.float32)
    backend, count = make_backend("auto", task), cores()
    one_core = [
        replay.plain(task, BATCH, 1),
        replay.bundle(task, backend, RUNS, BATCH, 1),
        replay.gradients(task, backend, BATCH),
        replay.evaluation(task, backend),
        replay.plain_evaluation(task),
        replay.limit(),
    ]
    plain, steps, alone, evaluated, plainly, flop = replay.measure(one_core, seconds, repeats)
    most = flop / large_cnn.training_flop(NETWORK)
    most_evaluated = flop / sum(large_cnn.forward_flop(NETWORK))
    yield Row("LeNet-5, training steps in a bundle", steps, PLAIN, plain, peak.NAME, most)
    yield Row("LeNet-5, gradients alone", alone, PLAIN, plain, peak.NAME, most)
    yield Row(
        *("LeNet-5, evaluation", evaluated, "plain PyTorch", plainly),
        *(peak.NAME, most_evaluated),
    )
    if idle:
        bundles = [replay.bundle(task, backend, RUNS, BATCH, n) for n in (1, count)]
        one, every = replay.measure(bundles, seconds, repeats, wall=True)
        name = f"LeNet-5, training steps on {count} cores"
        yield Row(name, every, "the same on one", one, f"{count} times", count * one)


def is_idle() -> bool:
    """Whether the cores can be measured together: there are some, and no other program runs."""
    return cores() > 1 and os.getloadavg()[0] < 0.5


def larger_network(data_folder: Path, seconds: float, repeats: int) -> Iterator[Row]:
    rates, most = large_cnn.rates(data_folder, large_cnn.BATCH, seconds, repeats)
    for what, title in {"steps": "training steps", "gradients": "gradients alone"}.items():
        ours = next(v for k, v in rates.items() if k.startswith("backend") and k.endswith(what))
        plain = rates[f"plain PyTorch, {what}"]
        name = f"larger CNN of lamour2023, {title}"
        yield Row(name, ours, PLAIN, plain, peak.NAME, most)


def without_network(repeats: int) -> Iterator[Row]:
    options = argparse.Namespace(rates=40, updates=500, repeats=repeats)
    for title, work in least_squares.WORKS.items():
        *_, found = least_squares.compare(work, torch.float32, options)
        limit = peak.NAME if found.most else ""
        yield Row(
            *(f"{title}: a bundle", found.bundle, "NumPy loop, one run", found.loop),
            *(limit, found.most),
        )


def clusters(repeats: int) -> Iterator[Row]:
    seconds = schedules.compare(schedules.CLUSTER, ARRIVALS, repeats)
    rates = {name: ARRIVALS / spent for name, spent in seconds.items()}
    name, merged = "schedule of ten workers, a million arrivals", rates["compiled merge"]
    yield Row(name, merged, "event queue in Python", rates["event queue (heapq)"])
    yield Row(name, merged, "whole-array NumPy", rates["whole-array NumPy"])


def one_cell(data_folder: Path) -> Iterator[Row]:
    ours, theirs = lamour2023.seconds(data_folder, 1), lamour2023.authors_seconds()
    name = "lamour2023, ten workers, one slow: a cell"
    yield Row(name, 1 / ours, "the authors' wall time", 1 / theirs)


def every_row(data_folder: Path, seconds: float, repeats: int) -> Iterator[Row]:
    yield from networks(data_folder, seconds, repeats)
    yield from larger_network(data_folder, seconds, repeats)
    yield from without_network(repeats)
    yield from clusters(repeats)
    yield from one_cell(data_folder)


def about() -> str:
    """What is measured: the build, the machine, and what the libraries use of it."""
    machine = describe_machine(torch.device("cpu"))
    blas = next(i for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas")
    return (
        f"{builds.processor()}, kernels built for {kernels.instruction_set('lenet5')} "
        f"({kernels.architecture()}).\n"
        f"{cores()} cores, load {os.getloadavg()[0]:.1f} at the start; "
        f"PyTorch {machine['torch']} ({torch.backends.cpu.get_cpu_capability()}), "
        f"NumPy {machine['numpy']} ({blas['internal_api']} for {blas['architecture']}), "
        f"Python {machine['python']}.\nThe limit: {peak.check()}.\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="as in the README")
    parser.add_argument("--quick", action="store_true", help="rough: a fifth of the time")
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    options = parser.parse_args(argv)
    seconds, repeats = (0.1, 3) if options.quick else (0.5, 7)
    torch.set_num_threads(1)
    try:
        print(about())
    except kernels.KernelUnavailable as error:
        raise SystemExit(f"There are no kernels to time: {error}") from None
    if not is_idle():
        print("The row about all cores is left out: it needs two, and the machine to itself.\n")
    rows = show(every_row(options.data_folder, seconds, repeats), options.markdown)
    print(flush=True)
    wrong = beyond_the_limit(rows)
    if wrong:
        raise peak.WrongLimit("\n".join(wrong))


if __name__ == "__main__":
    main()
