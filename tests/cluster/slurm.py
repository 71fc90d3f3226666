"""A Slurm of one node, this machine, for a test: munge, controller and node, ended by their numbers."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CPUS = 4  # that the node says it has, whatever it has
CONFIG = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={port_of_node}
SlurmUser={user}
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=6
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=5
SlurmdTimeout=6
MinJobAge=600
InactiveLimit=0
Waittime=0
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,requeue_delay=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Slurm:
    """The three daemons, and the commands of Slurm against them."""

    folder: Path
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, name: str, *options: str) -> None:
        """A daemon of ours, kept in the foreground."""
        program = shutil.which(name, path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])
        with (self.folder / f"{name}.out").open("ab") as log:
            environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}
            command = [program, *options]
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def start_node(self) -> None:
        self.start("slurmd", "-D", "-f", str(self.folder / "slurm.conf"))

    def kill_node(self) -> None:
        """As a power cut: the node's daemon, and all that it had started, are gone without a word."""
        node = self.daemons.pop("slurmd")
        node.kill()
        node.wait()
        for step in self.steps():
            os.kill(step, 9)

    def steps(self) -> list[int]:
        """Processes in tasks of this Slurm, by the file of its settings in their environment."""
        ours = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                inside = process.joinpath("environ").read_bytes().split(b"\0")
            except OSError:
                continue
            in_a_job = any(one.startswith(b"SLURM_JOB_ID=") for one in inside)
            daemon = process.joinpath("cmdline").read_bytes().startswith(b"slurmstepd")
            if ours in inside and (in_a_job or daemon):
                found.append(int(process.name))
        return found

    def call(self, *words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def wait_for_node(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            done = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
            if done.stdout.strip() in ("idle", "mixed", "allocated"):
                return
            time.sleep(0.3)
        pytest.fail(
            f"the node of Slurm did not come up: {(self.folder / 'slurmctld.out').read_text()[-2000:]}"
        )

    def stop(self) -> None:
        subprocess.run(["scancel", "--me"], capture_output=True)
        until = time.monotonic() + 20
        while self.steps() and time.monotonic() < until:
            time.sleep(0.2)
        for name in ("slurmd", "slurmctld", "munged"):
            if daemon := self.daemons.pop(name, None):
                daemon.terminate()
                try:
                    daemon.wait(15)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def missing() -> str:
    """Why there can be no Slurm here; "" where there can be one."""
    places = "/usr/sbin:/usr/local/sbin:" + os.environ["PATH"]
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
    if lacking := [name for name in programs if not shutil.which(name, path=places)]:
        return f"needs {lacking[0]}: apt-get install --no-install-recommends slurm-wlm munge"
    if os.geteuid():
        return "slurmd runs as root only"
    try:
        import submitit  # noqa: F401
    except ImportError:
        return "needs submitit"
    return ""


@contextmanager
def one_node(folder: Path) -> Iterator[Slurm]:
    """A Slurm that is up, with SLURM_CONF of this process set to it."""
    folder.chmod(0o711)  # munge wants every user to reach its socket
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host, port = platform.node().partition(".")[0], 20_000 + os.getpid() % 20_000
    settings = {
        "host": host,
        "folder": folder,
        "port": port,
        "port_of_node": port + 1,
        "user": "root",
        "cpus": CPUS,
    }
    (folder / "slurm.conf").write_text(CONFIG.format(**settings))
    slurm, before = Slurm(folder), os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        files = {
            name: folder / f"munged.{name[:4]}" for name in ("key-file", "log-file", "pid-file", "seed-file")
        }
        files |= {"key-file": key, "socket": folder / "munge.socket"}
        slurm.start("munged", "-F", "--num-threads=10", *(f"--{name}={path}" for name, path in files.items()))
        while not (folder / "munge.socket").exists():
            assert slurm.daemons["munged"].poll() is None, (folder / "munged.out").read_text()
            time.sleep(0.1)
        slurm.start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        slurm.start_node()
        slurm.wait_for_node()
        yield slurm
    finally:
        slurm.stop()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before
