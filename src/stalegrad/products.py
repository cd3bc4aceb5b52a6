"""Finding the function that makes a figure or a table of a study."""

import importlib
from collections.abc import Callable
from typing import Any

from stalegrad.errors import ConfigError
from stalegrad.results import StudyResults


def maker(kind: str, study: str, name: str, make: str | None) -> Callable[[StudyResults], Any]:
    """The function for a product of a study: `make`, or the study's own module and name.

    kind: `figures` or `tables`. Raises ConfigError saying where the function was looked for.
    """
    path = make or f"{study}.{name}"
    module_name, _, function = path.rpartition(".")
    try:
        return getattr(importlib.import_module(f"stalegrad.{kind}.{module_name}"), function)
    except (ModuleNotFoundError, AttributeError):
        raise ConfigError(
            f"config/studies/{study}.yaml: '{kind}.{name}' is made by stalegrad.{kind}.{path}, "
            f"which does not exist; write that function, or name another with 'make'."
        ) from None
