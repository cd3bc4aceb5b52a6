"""Which of Snakemake's messages are shown, and how a failure is told."""

import logging
from logging import LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

# Messages without a kind that say only that Snakemake is at work. What is not known is shown.
_AT_WORK = (
    *("Config file ", "Assuming unrestricted shared filesystem", "Building DAG of jobs"),
    *("Using shell:", "Conda environments: ignored"),
    *("Singularity containers: ignored", "Select jobs to execute", "Execute ", "Complete log"),
    *("Job rate limit reached", "Elapsed time", "Storing output in storage"),
)


def worth_showing(record: LogRecord, event: LogEvent | None) -> str:
    """What to show of a record that is no step of a job; empty for what is left out."""
    text = record.getMessage()
    if text == "None":
        return ""
    if record.levelno >= logging.WARNING:
        return text
    if event is not None or hasattr(record, "quietness") or text.startswith(_AT_WORK):
        return ""
    return text


def failure(record: Any) -> str:
    """A job's failure, from the record that Snakemake logs: its rule, and its whole log."""
    told = [f"{' '.join([record.rule_name, *_made(record)])} has failed."]
    if record.rule_msg:
        told.append(str(record.rule_msg))
    if record.shellcmd:
        told.append(f"Its command: {record.shellcmd}")
    for log in record.log:
        try:
            content = Path(log).read_text("utf-8", "replace").strip()
        except OSError:
            told.append(f"Its log, {log}, cannot be read.")
            continue
        told.append(f"Its log, {log}:\n{content}" if content else f"Its log, {log}, is empty.")
    return "\n".join(told)


def _made(record: Any) -> list[str]:
    """The first of the files that the job was to make."""
    return [f"(for {record.output[0]})"] if record.output else []
