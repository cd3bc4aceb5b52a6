"""A SLURM cluster of one node, this machine, for the tests: real daemons, no accounting."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import packages
import pytest

ETC = Path("/etc/slurm")
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "setpriv")

# Memory limits need the three lines on accounting of jobs. `config_overrides` lets the node claim
# more than the machine has: jobs are small, and the profile's requests must fit as they stand.
SLURM_CONF = """\
ClusterName=toy
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,defer_batch=0
SlurmdParameters=config_overrides
OverTimeLimit=0
KillWait=2
ReturnToService=2
MinJobAge=3600
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=localhost Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=localhost MaxTime=INFINITE State=UP
"""
GRES_CONF = """\
NodeName=localhost Name=gpu File=/dev/null
NodeName=localhost Name=gpu File=/dev/zero
"""
CONFIGURATION = {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF}


def install() -> None:
    """Skip the test, saying why, where there can be no SLURM of its own."""
    if os.geteuid() != 0:
        pytest.skip("starts the daemons of SLURM, which takes root")
    if os.environ.get("PYTEST_XDIST_WORKER"):
        pytest.skip("starts daemons of which a machine can have one set: run it without -n")
    for file in CONFIGURATION:
        if (ETC / file).exists():
            pytest.skip(f"{ETC / file} is there: this machine has a SLURM that is not the test's")
    packages.need(DAEMONS, "slurm-wlm", "munge")


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Start the daemons with their state in `folder`; stop them and all jobs at the end."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as stack:
        stack.enter_context(linked(folder))
        if subprocess.run(["munge", "-n"], capture_output=True).returncode:
            os.makedirs("/run/munge", exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            stack.enter_context(_daemon(["munged", "--foreground"], user="munge"))
            _until(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0)
        stack.enter_context(_daemon(["slurmctld", "-D"]))
        stack.enter_context(_daemon(["slurmd", "-D", "-N", "localhost"]))
        stack.callback(_end_jobs)
        _until(lambda: _said("sinfo", "--noheader", "--format=%T") == "idle")
        yield


@contextmanager
def linked(folder: Path) -> Iterator[None]:
    """The configuration, in `folder`, as that of the machine.

    What takes the links away is a process of its own, told by the end of a pipe, which comes
    whatever ends this one.
    """
    remove = ["sh", "-c", 'read -r end; rm -f "$@"', "sh", *(str(ETC / f) for f in CONFIGURATION)]
    with subprocess.Popen(remove, stdin=subprocess.PIPE, start_new_session=True):
        for name, text in CONFIGURATION.items():
            (folder / name).write_text(text.format(folder=folder, cpus=os.cpu_count()))
            (ETC / name).unlink(missing_ok=True)  # a link to nothing, left by a crash
            (ETC / name).symlink_to(folder / name)
        yield


@contextmanager
def _daemon(command: list[str], user: str = "root") -> Iterator[None]:
    """A daemon that ends with the block, or with this process, whatever happens to it."""
    as_user = ["--reuid", user, "--regid", user, "--init-groups"] if user != "root" else []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(["setpriv", *as_user, "--pdeathsig", "TERM", *command], **quiet)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _end_jobs() -> None:
    subprocess.run(["scancel", "--user", "root", "--full"], capture_output=True)
    _until(lambda: not _said("squeue", "--noheader"))


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return "\n".join(sorted(set(done.stdout.split("\n")) - {""}))


def _until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "SLURM does not get going; see slurmctld.log and slurmd.log"
        time.sleep(0.1)
