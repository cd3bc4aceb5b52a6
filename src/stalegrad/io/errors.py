"""The errors that users see. Each message is a sentence that says what to do."""


class StalegradError(Exception):
    """An error that the user can correct; shown without a traceback."""


class ConfigError(StalegradError):
    """A configuration value that is not allowed; names file, key and value."""


class DataError(StalegradError):
    """A data set that could not be fetched, or whose bytes are not the published ones."""


class ResultError(StalegradError):
    """A result file that is missing, cut short or of another version."""


class OutputError(StalegradError):
    """A file that cannot be written: a full disk, a folder that is read-only."""


class LockedError(StalegradError):
    """Another process is working on the same results."""
