"""stalegrad: studies of stale gradients, regenerated from one pipeline, and an instrument for more.

From Python, `import stalegrad as sg`:

    sg.problem, sg.rule, sg.cluster     a part of a run, by its name
    sg.module_problem                   a problem made of a PyTorch module and data
    sg.Rule, sg.spec                    what a rule of one's own is made of
    sg.cell, sg.grid, sg.train          runs, and their training
    sg.simulate, sg.Schedule            a cluster and its staleness, without training
    sg.results                          the results of a study

Packages, from left to right; none imports from further right (`tests/test_config.py` holds them to
it):

    io, schedule -> specs, data_order -> staleness -> clusters, rules, problems -> planning
       -> training -> analysis -> api, report -> cli
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stalegrad.api import cell, cluster, grid, problem, results, rule, simulate, train
    from stalegrad.problems._module import module_problem
    from stalegrad.rules import Rule
    from stalegrad.schedule import Schedule
    from stalegrad.specs import spec

__version__ = "0.1.0"
__all__ = [
    "Rule",
    "Schedule",
    "cell",
    "cluster",
    "grid",
    "module_problem",
    "problem",
    "results",
    "rule",
    "simulate",
    "spec",
    "train",
]

_HOMES = {
    "Rule": "rules",
    "Schedule": "schedule",
    "module_problem": "problems._module",
    "spec": "specs",
}


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is asked for: PyTorch and pandas take seconds, and the
    workflow reads this package at every start."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
