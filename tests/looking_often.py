"""Snakemake, given the same arguments, that asks once a second which jobs of a cluster have ended.

Its plugin for SLURM asks ten seconds later each time that none has: a job of five seconds is found
to have ended after fourteen, one of fifteen after thirty-six.
"""

import asyncio

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def a_second(executor: RemoteExecutor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = a_second
    main()
