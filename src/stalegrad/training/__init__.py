"""From schedules to trained runs: replay, bundles, backends and kernels."""
