"""stalegrad: studies of stale gradients, regenerated from one pipeline.

Packages, from left to right; none imports from further right (`tests/test_config.py` holds them to
it):

    io -> specs, schedule, data_order -> staleness -> clusters, rules, problems -> planning
       -> training -> analysis -> report -> cli
"""

__version__ = "0.1.0"
