"""Fits to traces: from what real processes did to the parameters of our simulated clusters."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from scipy import optimize, stats

from stalegrad.analysis import style
from stalegrad.clusters.hub_and_spoke import HubAndSpoke
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.io.errors import DataError
from stalegrad.io.traces import APPLIED, MOMENTS, Trace
from stalegrad.schedule import Schedule, Workload
from stalegrad.staleness import compute_times
from stalegrad.staleness.compute_times import Distribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DIGITS = 4  # of what is fitted
_CONSTANT = 1e-3  # relative deviation of times below which they are taken as constant


@dataclass(frozen=True)
class Times:
    """Seconds of each gradient [A], from the moments of a trace.

    fetch: from reading weights to the start of the computation; compute; delay: from its end to the
    push; push: on its way to the server; service: of the server, which serves one at a time;
    back [A]: the weights on their way to the worker, NaN of its first gradient.
    together: how many workers were computing, as the mean over the computation.
    """

    fetch: np.ndarray
    compute: np.ndarray
    delay: np.ndarray
    push: np.ndarray
    service: np.ndarray
    back: np.ndarray
    together: np.ndarray

    @classmethod
    def of(cls, trace: Trace) -> "Times":
        """Raises DataError where the trace lacks a moment."""
        for name in MOMENTS:
            if name not in trace.columns:
                raise DataError(
                    f"{trace.file}: the column '{name}' is missing; a fit takes all of "
                    f"{', '.join(MOMENTS)}."
                )
        c, applied = trace.columns, trace.columns[APPLIED]
        made = c["version"] * trace.arrivals_per_update - 1  # the arrival that made the version
        first = _first_of_workers(c["worker"])
        # A worker is answered once its gradient is applied; at a barrier, once the update is made.
        answered = np.maximum(_own_before(c["worker"], applied), applied[np.maximum(made, 0)])
        free = np.concatenate([[-np.inf], applied[:-1]])
        return cls(
            fetch=c["start"] - c["read"],
            compute=c["end"] - c["start"],
            delay=c["sent"] - c["end"],
            push=c["arrived"] - c["sent"],
            service=applied - np.maximum(c["arrived"], free),
            back=np.where(first, np.nan, c["read"] - answered),
            together=computing_at_once(c["start"], c["end"]),
        )


def _first_of_workers(worker: np.ndarray) -> np.ndarray:
    """Whether [A] an arrival is the first of its worker."""
    first = np.zeros(len(worker), bool)
    first[np.unique(worker, return_index=True)[1]] = True
    return first


def _own_before(worker: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The value [A] of the arrival before of the same worker; of the first, its own."""
    before = value.copy()
    order = np.argsort(worker, kind="stable")
    same = np.diff(worker[order]) == 0
    before[order[1:][same]] = value[order[:-1][same]]
    return before


def computing_at_once(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The mean number of computations under way during each of them [A], itself included."""
    moments = np.concatenate([start, end])
    steps = np.concatenate([np.ones(len(start)), -np.ones(len(end))])
    order = np.argsort(moments, kind="stable")
    moments, under_way = moments[order], np.cumsum(steps[order])
    # The integral of the number under way, up to any moment.
    area = np.concatenate([[0.0], np.cumsum(under_way[:-1] * np.diff(moments))])
    of = np.interp(end, moments, area) - np.interp(start, moments, area)
    return np.maximum(of / np.maximum(end - start, 1e-9), 1.0)


# ---- distributions ----


@dataclass(frozen=True)
class Fitted:
    """A distribution by maximum likelihood. aic: Akaike's criterion, less is better; distance and
    p_value: of Kolmogorov and Smirnov. The p-value is of parameters that were known beforehand, so
    that with fitted ones it is too large."""

    distribution: Distribution
    aic: float
    distance: float
    p_value: float


def fit_distributions(times: np.ndarray) -> list[Fitted]:
    """The known distributions that can be fitted to times [n] > 0, the best first.

    None where they hardly vary: that is `constant`, which has no likelihood.
    """
    found: list[Fitted] = []
    if np.std(times) < _CONSTANT * np.mean(times):
        return found
    for fit in (_expon, _normal, _uniform, _gamma, _pareto):
        made = fit(times)
        if made is None:
            continue
        distribution, frozen, parameters = made
        likelihood = float(np.sum(frozen.logpdf(times)))
        test = stats.kstest(times, frozen.cdf)
        found.append(
            Fitted(
                distribution,
                2 * parameters - 2 * likelihood,
                float(test.statistic),
                float(test.pvalue),
            )
        )
    return sorted(found, key=lambda each: each.aic)


# A distribution, the same of scipy's, and how many numbers were fitted.
_Made = tuple[Distribution, Any, int]


def _expon(times: np.ndarray) -> _Made:
    loc, scale = stats.expon.fit(times)
    made = compute_times.Exponential(loc=float(loc), scale=float(scale))
    return made, stats.expon(loc, scale), 2


def _normal(times: np.ndarray) -> _Made | None:
    """Cut at 0, which changes the likelihood where much would lie below."""
    mean, deviation = stats.norm.fit(times)

    def unlikely(parameters: np.ndarray) -> float:
        loc, scale = parameters[0], np.exp(parameters[1])
        if loc < 0:
            return np.inf
        return float(-np.sum(stats.truncnorm.logpdf(times, -loc / scale, np.inf, loc, scale)))

    found = optimize.minimize(unlikely, [mean, np.log(deviation)], method="Nelder-Mead")
    if not np.isfinite(found.fun):
        return None
    loc, scale = float(found.x[0]), float(np.exp(found.x[1]))
    return (
        compute_times.Normal(loc=loc, scale=scale),
        stats.truncnorm(-loc / scale, np.inf, loc, scale),
        2,
    )


def _uniform(times: np.ndarray) -> _Made:
    loc, scale = stats.uniform.fit(times)
    made = compute_times.Uniform(loc=float(loc), scale=float(scale))
    return made, stats.uniform(loc, scale), 2


def _gamma(times: np.ndarray) -> _Made | None:
    """With the start that is the likeliest of some below the smallest time: as the start comes
    closer to it, the likelihood of shapes below 1 grows without bound."""
    best: tuple[float, _Made] | None = None
    for share in (0.0, 0.25, 0.5, 0.75, 0.9, 0.95):
        loc = share * float(times.min())
        a, _, scale = stats.gamma.fit(times, floc=loc)
        frozen = stats.gamma(a, loc, scale)
        likelihood = float(np.sum(frozen.logpdf(times)))
        if np.isfinite(likelihood) and (best is None or likelihood > best[0]):
            made = compute_times.Gamma(a=float(a), loc=loc, scale=float(scale))
            best = likelihood, (made, frozen, 3)
    return None if best is None else best[1]


def _pareto(times: np.ndarray) -> _Made | None:
    """From 0; none where it would have no mean."""
    b, _, scale = stats.pareto.fit(times, floc=0)
    if not b > 1:
        return None
    made = compute_times.Pareto(b=float(b), scale=float(scale))
    return made, stats.pareto(b, 0, scale), 2


# ---- clusters ----


@dataclass(frozen=True)
class Fit:
    """What a trace says of the cluster it is of.

    cluster: its parameters as one of ours. times: of each gradient. distributions: of compute times
    over the mean of their worker; none where they hardly vary. seconds [n]: mean compute time of
    each worker.
    """

    trace: Trace
    cluster: ParameterServer | HubAndSpoke
    times: Times
    distributions: list[Fitted]
    seconds: np.ndarray

    def simulated(self, seed: int = 1) -> Schedule:
        """As many arrivals of the fitted cluster as the trace has. Where each of its workers did
        as many, each does so here, and stops."""
        done = np.bincount(self.trace.columns["worker"], minlength=self.trace.workers)
        each_its_own = self.trace.columns["stream"].any() and np.ptp(done) == 0
        batches = done.tolist() if each_its_own else [self.trace.arrivals]
        return self.cluster.simulate(Workload(tuple(batches), 1), np.random.default_rng(seed))


def fit_trace(trace: Trace, name: str = "parameter_server") -> Fit:
    """Fit the cluster of that name to a trace.

    Raises DataError where the trace lacks what is needed, or is of what that cluster cannot do.
    """
    times, worker = Times.of(trace), trace.columns["worker"]
    counts = np.bincount(worker, minlength=trace.workers)
    if (counts < 2).any():
        raise DataError(
            f"{trace.file}: worker {int(np.argmin(counts))} has {counts.min()} gradients; a fit "
            f"takes at least 2 of every worker."
        )
    if (times.compute <= 0).any():
        raise DataError(f"{trace.file}: a computation takes no time; a fit takes longer ones.")
    seconds = np.bincount(worker, times.compute, trace.workers) / counts
    distributions = fit_distributions(times.compute / seconds[worker])
    cluster = (
        _hub_and_spoke(trace, times) if name == "hub_and_spoke" else _parameter_server(trace, times)
    )
    return Fit(trace, cluster, times, distributions, seconds)


def _parameter_server(trace: Trace, times: Times) -> ParameterServer:
    per_update, worker = trace.arrivals_per_update, trace.columns["worker"]
    synchronous = per_update == trace.workers > 1
    if per_update > 1 and not synchronous:
        raise DataError(
            f"{trace.file}: an update takes {per_update} gradients, which the cluster "
            f"'parameter_server' does not do; fit 'hub_and_spoke'."
        )
    alone, machine = contention(times.compute, times.together)
    # What is left of the variation once contention is taken out.
    expected = np.maximum(alone, machine * times.together)
    relative = times.compute / expected
    of_worker = np.bincount(worker, relative, trace.workers) / np.bincount(worker)
    delayed, delay, deviation = _delays(worker, times.delay, trace.workers)
    firsts = np.sort(trace.columns["read"][_first_of_workers(worker)])
    network = (np.mean(times.push) + np.nanmean(times.back)) / 2
    return ParameterServer(
        workers=trace.workers,
        compute_ms=_ms(alone * float(np.mean(of_worker)) + float(np.mean(times.fetch))),
        machine_ms=_ms(machine * float(np.mean(of_worker))),
        jitter=_rounded(float(np.std(relative / of_worker[worker]))),
        spread=_rounded(float(np.std(of_worker) / np.mean(of_worker))),
        delay_ms=_ms(delay),
        delay_deviation_ms=_ms(deviation),
        delayed=delayed,
        network_ms=_ms(max(float(network), 0.0)),
        service_ms=_ms(float(np.mean(times.service))),
        pull="after" if synchronous else _pull(trace),
        start_ms=_ms(float(np.mean(np.diff(firsts))) if len(firsts) > 1 else 0.0),
        synchronous=synchronous,
        run_on=trace.about.get("run_on") != "false",
    )


def _hub_and_spoke(trace: Trace, times: Times) -> HubAndSpoke:
    """Its rounds last from reading weights to pushing a gradient."""
    rounds = times.fetch + times.compute + times.delay
    fitted = fit_distributions(rounds)
    constant = compute_times.Constant(value=float(np.mean(rounds)))
    best = fitted[0].distribution if fitted else constant
    there_and_back = np.mean(times.push) + np.mean(times.service) + np.nanmean(times.back)
    return HubAndSpoke(
        workers=trace.workers,
        minibatches_per_update=trace.arrivals_per_update,
        communication_time=_rounded(max(float(there_and_back), 0.0)),
        compute_time=best,
    )


def contention(compute: np.ndarray, together: np.ndarray) -> tuple[float, float]:
    """Seconds that a computation takes alone, and those in which the machine, wholly taken up,
    does one: of the model in which it takes max(alone, machine * k) with k at once, the pair of
    least absolute error in the logarithm. The second is 0 where no contention is found."""
    logs, k = np.log(compute), np.log(together)

    def error(parameters: np.ndarray) -> float:
        return float(np.mean(np.abs(logs - np.maximum(parameters[0], parameters[1] + k))))

    alone = float(np.median(logs))
    without = error(np.array([alone, -np.inf]))
    starts = [(np.quantile(logs, q), np.median(logs - k)) for q in (0.1, 0.3, 0.5)]
    found = [optimize.minimize(error, start, method="Nelder-Mead") for start in starts]
    best = min(found, key=lambda each: each.fun)
    # Two numbers must explain more than one does.
    if best.fun > 0.99 * without:
        return float(np.exp(alone)), 0.0
    return float(np.exp(best.x[0])), float(np.exp(best.x[1]))


def _delays(worker: np.ndarray, delay: np.ndarray, workers: int) -> tuple[Any, float, float]:
    """Who is delayed, and mean and deviation of the seconds, as `ParameterServer` has them."""
    first, others = delay[worker == 0], delay[worker != 0]
    if workers == 1:
        return "all", float(first.mean()), float(first.std())
    if others.mean() < 0.1 * first.mean():
        return "only", float(first.mean()), float(first.std())
    delayed = "one" if first.mean() > 1.5 * others.mean() else "all"
    return delayed, float(others.mean()), float(others.std())


def _pull(trace: Trace) -> Any:
    """Whether workers got the weights after or before their own update, for the most part."""
    worker, per_update = trace.columns["worker"], trace.arrivals_per_update
    own = _own_before(worker, np.arange(trace.arrivals))
    later = ~_first_of_workers(worker)
    after = trace.columns["version"][later] >= (own[later] + 1) // per_update
    return "after" if after.mean() >= 0.5 else "before"


def _ms(seconds: float) -> float:
    return _rounded(1_000 * seconds)


def _rounded(number: float) -> float:
    """To the digits that a fit is good for."""
    return float(f"{number:.{_DIGITS}g}")


# ---- simulation against recording ----


def staleness_of(trace: Trace) -> np.ndarray:
    """Staleness [A] of a trace, counted before the gradient's own update."""
    number = np.arange(trace.arrivals)
    return number // trace.arrivals_per_update - trace.columns["version"]


def draw_fit(fit: Fit, file: Path) -> None:
    """Write a figure: staleness of recording and simulation, and who was served when."""
    from matplotlib import pyplot

    with style.style():
        figure = fit_figure(fit)
        figure.savefig(file)
        pyplot.close(figure)


def fit_figure(fit: Fit) -> "Figure":
    """Staleness of recording and simulation, and above each other their timelines."""
    trace, simulated = fit.trace, fit.simulated()
    figure, axes = style.panels(1, 3, 2.2)
    recorded_staleness, simulated_staleness = staleness_of(trace), simulated.staleness_before
    largest = int(max(recorded_staleness.max(), simulated_staleness.max()))
    for staleness, label, colour in (
        (recorded_staleness, "recorded", style.COLOURS[0]),
        (simulated_staleness, "simulated", style.COLOURS[1]),
    ):
        share = np.bincount(staleness, minlength=largest + 1) / len(staleness)
        axes[0, 0].step(np.arange(largest + 1), share, where="mid", label=label, color=colour)
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_xlabel("staleness")
    axes[0, 0].set_ylabel("share of gradients")
    axes[0, 0].legend()
    shown = min(8 * trace.workers, trace.arrivals // 2)
    first = trace.arrivals // 2
    here = slice(first, first + shown)
    timeline(axes[0, 1], trace.columns["worker"][here], trace.columns[APPLIED][here], "recorded")
    timeline(axes[0, 2], simulated.worker[here], simulated.time[here], "simulated")
    return figure


def timeline(axes: "Axes", worker: np.ndarray, applied: np.ndarray, title: str) -> None:
    """A line for each worker; its gradients lie between the moments [A] at which they and the ones
    before were applied."""
    start = _own_before(worker, applied)
    for row in np.unique(worker):
        mine = worker == row
        spans = np.stack([start[mine], applied[mine]], axis=1)[1:] - applied[0]
        for number, (begin, end) in enumerate(1_000 * spans):
            colour = style.COLOURS[number % 2]
            axes.plot([begin, end], [row, row], color=colour, linewidth=3, solid_capstyle="butt")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("worker")
    axes.set_title(title)
