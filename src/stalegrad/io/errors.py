"""The errors a user can meet. Each message is a whole sentence that says what to do."""


class StalegradError(Exception):
    """Something the user can put right; shown without a traceback."""


class ConfigError(StalegradError):
    """A configuration value that is not allowed; names file, key and value."""


class DataError(StalegradError):
    """A data set that could not be had, or whose bytes are not the published ones."""


class ResultError(StalegradError):
    """A result file that is missing, cut short or of another version."""


class OutputError(StalegradError):
    """A file that cannot be written: a full disk, a folder that is read-only."""


class LockedError(StalegradError):
    """Somebody else is at work on the same results."""
