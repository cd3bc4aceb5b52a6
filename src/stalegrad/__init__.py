"""stalegrad: four studies of stale gradients, regenerated from one pipeline.

Data flows one way through the modules, and none imports from further right:

    config -> cells -> clusters -> schedule -> replay -> results
           -> tables, figures -> verdicts -> report
"""

__version__ = "0.1.0"
