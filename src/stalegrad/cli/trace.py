"""`stalegrad trace`: what a recording holds, and the simulated cluster that is most like it."""

import argparse
from typing import TYPE_CHECKING

from stalegrad.cli.flags import Commands, Parser, examples, path

if TYPE_CHECKING:
    from stalegrad.analysis.recordings import Fit


def add_trace(commands: Commands) -> None:
    parser = commands.add_parser(
        "trace",
        help="check a recording, or fit a simulated cluster to it",
        description=(
            "Traces are what `stalegrad record` writes, and what you may write of your own\n"
            "cluster: docs/recording.md says how."
        ),
        epilog=examples(
            "stalegrad trace check results/traces/TRACE.csv",
            "stalegrad trace fit results/traces/TRACE.csv --plot fit.pdf",
        ),
    )
    inner = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    check = inner.add_parser("check", help="whether a file is a trace, and what it holds")
    check.add_argument("file", type=path, metavar="FILE")
    check.set_defaults(act=_check)
    fit = inner.add_parser(
        "fit",
        help="print the cluster that is most like it, to be pasted into a study",
        description=(
            "Fit one of the simulated clusters to a trace by maximum likelihood, say how well its\n"
            "compute times follow each known distribution, and print the cluster as YAML."
        ),
    )
    fit.add_argument("file", type=path, metavar="FILE")
    fit.add_argument(
        "--cluster",
        choices=("parameter_server", "hub_and_spoke"),
        help="default: parameter_server, which has contention and delays, unless an update takes "
        "some gradients but not one of each worker",
    )
    fit.add_argument(
        "--plot",
        type=path,
        metavar="FILE",
        help="draw simulation against recording: staleness and timelines",
    )
    fit.set_defaults(act=_fit)


def _check(options: argparse.Namespace) -> None:
    from stalegrad.analysis.recordings import staleness_of
    from stalegrad.io.traces import APPLIED, COMPLETE, read_trace

    trace = read_trace(options.file)
    applied, staleness = trace.columns[APPLIED], staleness_of(trace)
    print(
        f"{options.file}: {trace.arrivals:,} gradients of {trace.workers} workers, "
        f"{trace.arrivals_per_update} an update, in {applied[-1] - applied[0]:.3f} s; staleness "
        f"{staleness.mean():.4g} on average, {staleness.max()} at most."
    )
    for key, value in trace.events:
        if key == "lost":
            print(f"lost: {value}")
    if trace.ended is None:
        print(
            "It was not closed: whoever wrote it was killed, or is still writing. A cell takes it "
            "with 'unfinished: true'."
        )
    elif trace.ended == COMPLETE:
        print("It is complete.")
    else:
        print(f"It ended before its time: {trace.ended}. A cell takes it with 'unfinished: true'.")


def _fit(options: argparse.Namespace) -> None:
    import yaml

    from stalegrad import specs
    from stalegrad.analysis.recordings import draw_fit, fit_trace
    from stalegrad.io.traces import read_trace

    trace = read_trace(options.file)
    per_update = trace.arrivals_per_update
    usual = "parameter_server" if per_update in (1, trace.workers) else "hub_and_spoke"
    fit = fit_trace(trace, options.cluster or usual)
    for line in _said(fit):
        print(f"# {line}")
    plain = specs.describe(fit.cluster)
    print(yaml.safe_dump({"cluster": plain}, sort_keys=False, default_flow_style=None), end="")
    if options.plot is not None:
        draw_fit(fit, options.plot)


def _said(fit: "Fit") -> list[str]:
    """What was found, in lines."""
    import numpy as np

    from stalegrad.analysis.recordings import staleness_of

    def ms(seconds: "np.ndarray") -> str:
        low, middle, high = 1_000 * np.nanquantile(seconds, [0.05, 0.5, 0.95])
        shares = f"5, 50, 95 %: {low:.4g}, {middle:.4g}, {high:.4g}"
        return f"{1_000 * np.nanmean(seconds):.4g} ms ({shares})"

    times, trace = fit.times, fit.trace
    recorded, schedule = staleness_of(trace), fit.simulated()
    simulated = schedule.staleness_before
    by_worker = ", ".join(f"{1_000 * each:.4g}" for each in fit.seconds)
    lines = [
        f"{trace.file}: {trace.arrivals:,} gradients of {trace.workers} workers",
        f"compute {ms(times.compute)}; by worker {by_worker}",
        f"computing at once {times.together.mean():.3g} on average",
        f"delay {ms(times.delay)}",
        f"to the server {ms(times.push)}",
        f"service {ms(times.service)}",
        f"to the worker {ms(times.back)}",
        "compute times over the mean of their worker, best first:"
        if fit.distributions
        else "compute times hardly vary: they are constant",
    ]
    for each in fit.distributions:
        parameters = ", ".join(
            f"{name} {value:.4g}"
            for name, value in vars(each.distribution).items()
            if isinstance(value, float)
        )
        lines.append(
            f"  {each.distribution.name}: {parameters}; AIC {each.aic:.1f}, Kolmogorov-Smirnov "
            f"distance {each.distance:.4f} (p {each.p_value:.2g})"
        )
    seconds = trace.columns["applied"][-1]
    return [
        *lines,
        f"recorded: staleness {recorded.mean():.4g} +- {recorded.std():.4g}, {seconds:.4g} s",
        f"simulated: staleness {simulated.mean():.4g} +- {simulated.std():.4g}, "
        f"{schedule.time[-1]:.4g} s",
    ]
