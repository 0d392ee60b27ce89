"""Clusters whose scheduler runs here, on a login node say, and whose workers are jobs of a batch system.

Owns what dask-jobqueue's keywords mean for `hpcdag workers`; submitting, counting and cancelling is the
program's.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcdag._keeper import Keeper
from hpcdag.cluster import (
    ClusterBase,
    dashboard_setting,
    setting_text,
    settings_env,
    size_option,
    time_option,
    variable,
)

# dask-jobqueue's keywords that have no meaning here: taken, so that existing calls work.
_WITHOUT_EFFECT = {
    "asynchronous",
    "loop",
    "nanny",
    "protocol",
    "security",
    "shared_temp_directory",
    "shebang",
    "silence_logs",
}


class Cluster(ClusterBase):
    """Workers in jobs of a batch system; the scheduler is a process of this host. Both end with this process.

    One job is one worker with `cores` slots (`nodes` workers on as many nodes). Without `processes`, each
    slot runs calls of Python functions in a process of its own. With it there are so many processes in a job,
    each in `cores / processes` threads, as dask-jobqueue's workers have them, and one job stands for as many
    of these workers when `scale(n)` and `adapt` count.

    Args:
        site: a pool of the configuration, `[launch.pool.NAME]`: with its launcher, queue, account, cores and
            so on. Keywords win over it.
        cores: processors of a job, and how many tasks it runs at once.
        memory: memory of a job: bytes, or a text such as `"100GB"`.
        processes: how many processes of a job run calls of Python functions, in `cores / processes` threads
            each; and how many of Dask's workers a job stands for.
        queue: queue, or partition.
        account: whom jobs are charged to.
        walltime: how long a job may run: `"02:00:00"`, `"90m"`.
        job_extra_directives: further options of the script's head, without `#SBATCH` and the like.
        job_directives_skip: options left out of the head, such as `"--mem"`.
        job_script_prologue: lines of the script before the worker: modules, conda.
        interface: network interface of scheduler and workers, or several by commas in order of preference.
        local_directory: where workers keep spilled results; on a disk of the node.
        log_directory: where the jobs' output goes.
        job_cpu: processors to ask for, if not `cores`.
        job_mem: memory to ask for, if not `memory`.
        job_name: name of the jobs.
        nodes: nodes of each job.
        python: interpreter on the nodes, if not the client's.
        death_timeout: how long a worker looks for the scheduler: seconds, or a text such as `"5m"`.
        worker_extra_args: further options of `hpcdag workers start`, such as `["--lifetime", "55m"]`.
        submit_command_extra: options of the submitting command itself.
        scheduler_options: `interface`, `host`, `port`, `dashboard_address` (as for `LocalCluster`), and
            settings of `[scheduler]`.
        worker_options: settings of `[worker]`, such as `{"memory.spill": False}`.
        n_workers: `scale(n_workers)` at once.
        name: how the cluster is called when it is shown.

    Raises:
        HpcdagError: the scheduler did not come up, or there can be no such job; the text is what the program
            said.
        TypeError: an argument that nobody knows.
    """

    #: The word after `--launcher`; `None` for the site's, or the batch system whose commands are there.
    launcher: str | None = None
    #: The batch system's table of the configuration.
    system: str | None = None

    def __init__(
        self,
        site: str | None = None,
        *,
        cores: int | None = None,
        memory: str | int | None = None,
        processes: int | None = None,
        queue: str | None = None,
        account: str | None = None,
        walltime: str | None = None,
        job_extra_directives: Sequence[str] = (),
        job_directives_skip: Sequence[str] = (),
        job_script_prologue: Sequence[str] = (),
        interface: str | None = None,
        local_directory: str | Path | None = None,
        log_directory: str | Path | None = None,
        job_cpu: int | None = None,
        job_mem: str | int | None = None,
        job_name: str | None = None,
        nodes: int | None = None,
        python: str | None = None,
        death_timeout: str | int | float | None = None,
        worker_extra_args: Sequence[str] = (),
        submit_command_extra: Sequence[str] = (),
        scheduler_options: Mapping[str, Any] | None = None,
        worker_options: Mapping[str, Any] | None = None,
        n_workers: int = 0,
        name: str | None = None,
        **others: Any,
    ) -> None:
        # Older names of dask-jobqueue, and those of its batch systems.
        site = _other_name(others, "config_name", site)
        account = _other_name(others, "project", account)
        job_extra_directives = _other_name(others, "job_extra", job_extra_directives)
        job_directives_skip = _other_name(others, "header_skip", job_directives_skip)
        job_script_prologue = _other_name(others, "env_extra", job_script_prologue)
        worker_extra_args = _other_name(others, "extra", worker_extra_args)
        unknown = sorted(set(others) - _WITHOUT_EFFECT)
        if unknown:
            raise TypeError(f"a cluster of jobs takes no argument {unknown[0]!r}")
        self.site = site
        self._per_job = processes or nodes or 1
        self._cores = cores
        launcher = self.launcher if site or self.launcher else _present()
        self._options = _options(
            ("--launcher", launcher),
            ("--pool", site),
            ("--nodes", nodes),
            # The flag is about both: processors to ask for, and slots.
            ("--nthreads", cores if job_cpu is None else None),
            ("--processes", None if processes is None else -(-processes // (nodes or 1))),
            ("--mem", _first(job_mem, memory, size_option)),
            ("--memory-limit", size_option(memory) if job_mem is not None and memory is not None else None),
            ("--partition", queue),
            ("--account", account),
            ("--walltime", walltime),
            ("--job-name", job_name),
            ("--interface", interface),
            ("--local-directory", local_directory),
            ("--output", self._output(log_directory)),
            ("--death-timeout", None if death_timeout is None else time_option(death_timeout)),
        )
        self._options += [str(word) for word in worker_extra_args]
        self._native = [word for option in submit_command_extra for word in shlex.split(option)]
        self._env = {
            **self._launch_env("directives", job_extra_directives),
            **self._launch_env("remove-directives", job_directives_skip),
            **self._launch_env("prologue", job_script_prologue),
            **self._launch_env("cpus", job_cpu),
            **settings_env("worker", {"nthreads": cores} if cores and job_cpu is not None else None),
            **settings_env("worker", worker_options),
            **settings_env("worker", {"python.executable": python} if python else None),
        }
        options = {"interface": interface, **(scheduler_options or {})}
        options |= dashboard_setting(options.pop("dashboard_address", "auto"))
        words = [(f"--{key}", options.pop(key, None)) for key in ("interface", "host", "port")]
        start = ["scheduler", "--detach", *_options(*words)]
        super().__init__(Keeper(start, own_file=False, env=settings_env("scheduler", options)), name)
        try:
            # Says what is wrong with the options before somebody waits for workers.
            self.job_script()
            if n_workers:
                self.scale(n_workers)
        except BaseException:
            self.close()
            raise

    def _home(self) -> Path:
        return self._keeper.scheduler_file.parent

    def _output(self, directory: str | Path | None) -> str | None:
        if directory is None:
            return None
        path = Path(directory).expanduser().absolute()
        path.mkdir(parents=True, exist_ok=True)
        # PBS and Grid Engine take a directory, and name the files themselves.
        return str(path / "hpcdag-%j.log") if self.system == "slurm" else f"{path}/"

    def _launch_env(self, key: str, value: Any) -> dict[str, str]:
        """A setting of jobs that no option stands for."""
        if value is None or value == [] or value == ():
            return {}
        if isinstance(value, str):
            value = [value]
        if self.site:
            # A variable has no capitals and no `_` in it.
            if not re.fullmatch(r"[a-z0-9-]+", self.site):
                keyword = f"[launch.pool.{self.site}]"
                raise ValueError(f"{key!r} of {keyword} cannot be set from here; write it there")
            tables = [f"pool.{self.site}"]
        else:
            tables = [self.system] if self.system else ["slurm", "pbs", "sge"]
        return {variable(f"launch.{table}.{key}"): setting_text(value) for table in tables}

    def _order(self, *command: str) -> list[str]:
        native = ["--", *self._native] if self._native else []
        return ["workers", *command, *self._options, *native]

    def job_script(self) -> str:
        """The script that is submitted for a job."""
        return str(self._ask_options("start", "--dry-run")["script"])

    def _ask_options(self, *command: str) -> Any:
        import json

        return json.loads(self._run(self._order(*command, "--json"), env=self._env))

    def scale(
        self,
        n: int | None = None,
        jobs: int | None = None,
        memory: str | int | None = None,
        cores: int | None = None,
    ) -> None:
        """Has as many jobs as are needed: submits those that are missing, or lets some leave, waiting ones
        first.

        Returns as soon as they are submitted; `wait_for_workers` waits for workers.

        Args:
            n: so many workers; with `processes=P` a job counts as P.
            jobs: so many jobs.
            memory: no meaning here; `NotImplementedError`.
            cores: so many processors, in whole jobs.

        Raises:
            HpcdagError: the batch system refused, with its words.
        """
        if memory is not None:
            raise NotImplementedError("scale(memory=) is not there: say how many jobs")
        if cores is not None:
            if self._cores is None:
                raise TypeError("scale(cores=) needs a cluster with cores=")
            jobs = -(-cores // self._cores)
        if jobs is None:
            if n is None:
                raise TypeError("scale needs the number of workers, or jobs=")
            jobs = self._in_jobs(n)
        self._run(self._order("scale", str(jobs)), env=self._env)

    def _in_jobs(self, workers: int) -> int:
        return -(-workers // self._per_job)

    def adapt(
        self,
        minimum: int = 0,
        maximum: int | None = None,
        *,
        minimum_jobs: int | None = None,
        maximum_jobs: int | None = None,
        interval: str | float | None = None,
        **others: Any,
    ) -> None:
        """Has as many jobs as the work is worth, from now on; `scale` ends it.

        The scheduler's process sees to it, by the program's own rules: docs/jobs.md, "Growing and shrinking".

        Args:
            minimum: workers that there are even without work.
            maximum: workers that there are at most; without it the pool's `max`.
            minimum_jobs: the same in jobs.
            maximum_jobs: the same in jobs.
            interval: how often it looks: seconds, or a text such as `"10s"`.

        Dask's `wait_count` and `target_duration` have no effect.
        """
        unknown = sorted(set(others) - {"wait_count", "target_duration", "startup_cost", "scale_factor"})
        if unknown:
            raise TypeError(f"adapt takes no argument {unknown[0]!r}")
        low = self._in_jobs(minimum) if minimum_jobs is None else minimum_jobs
        high = maximum_jobs
        if high is None and maximum is not None and maximum != float("inf"):
            high = self._in_jobs(maximum)
        if self._status()["adapted"]:
            self._run(["workers", "adapt", "--stop"])
        bounds = _options(("--min", low or None), ("--max", high))
        bounds += _options(("--interval", None if interval is None else time_option(interval)))
        self._run(self._order("adapt", "--in-scheduler", *bounds), env=self._env)

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that were submitted for workers, as `hpcdag workers list --jobs --json` has them."""
        answer = self._ask(["workers", "list", "--jobs"])
        jobs: list[dict[str, Any]] = answer if isinstance(answer, list) else answer["jobs"]
        return jobs


class SLURMCluster(Cluster):
    """A `Cluster` whose jobs are Slurm's."""

    launcher = "sbatch"
    system = "slurm"


class PBSCluster(Cluster):
    """A `Cluster` whose jobs are OpenPBS's or PBS Pro's.

    `resource_spec`, as dask-jobqueue has it, is read: `"select=1:ncpus=36:mem=109GB"` says what to ask for.
    """

    launcher = "pbs"
    system = "pbs"

    def __init__(self, site: str | None = None, *, resource_spec: str | None = None, **keywords: Any) -> None:
        if resource_spec:
            keywords = {**_of_select(resource_spec), **keywords}
        super().__init__(site, **keywords)


class SGECluster(Cluster):
    """A `Cluster` whose jobs are Grid Engine's. `resource_spec` becomes `-l resource_spec` in the head."""

    launcher = "sge"
    system = "sge"

    def __init__(self, site: str | None = None, *, resource_spec: str | None = None, **keywords: Any) -> None:
        if resource_spec:
            given = keywords.get("job_extra_directives", ())
            keywords["job_extra_directives"] = [*given, f"-l {resource_spec}"]
        super().__init__(site, **keywords)


def _present() -> str:
    for command, launcher in (("sbatch", "sbatch"), ("qsub", "qsub")):
        if shutil.which(command):
            return launcher
    raise ValueError("there is no batch system here (no sbatch, no qsub): name a site, or take LocalCluster")


def _first(one: Any, other: Any, text: Any) -> str | None:
    value = other if one is None else one
    return None if value is None else str(text(value))


def _options(*pairs: tuple[str, Any]) -> list[str]:
    return [word for option, value in pairs if value is not None for word in (option, str(value))]


def _other_name(others: dict[str, Any], name: str, value: Any) -> Any:
    """The value of a keyword that may be given under another name."""
    if name not in others:
        return value
    if value:
        raise TypeError(f"{name!r} is another name of a keyword that is given too")
    return others.pop(name)


def _of_select(text: str) -> dict[str, Any]:
    """What PBS's `select=1:ncpus=36:mem=109GB` asks for, as keywords."""
    found = re.fullmatch(r"(?:select=)?(?P<nodes>\d+)(?P<rest>(?::\w+=[\w.]+)*)", text.strip())
    if found is None:
        raise ValueError(f"resource_spec {text!r} is not of the form select=1:ncpus=36:mem=109GB")
    chunk = dict(part.split("=", 1) for part in found["rest"].split(":") if part)
    keywords: dict[str, Any] = {}
    if int(found["nodes"]) > 1:
        keywords["nodes"] = int(found["nodes"])
    if "ncpus" in chunk:
        keywords["job_cpu"] = int(chunk.pop("ncpus"))
    if "mem" in chunk:
        keywords["job_mem"] = chunk.pop("mem").upper()
    if "ngpus" in chunk:
        keywords["worker_extra_args"] = ["--gpus", chunk.pop("ngpus")]
    # One worker on each node, whatever it says.
    for name in ("mpiprocs", "ompthreads"):
        chunk.pop(name, None)
    if chunk:
        raise ValueError(f"{', '.join(chunk)} of resource_spec: give it by job_extra_directives")
    return keywords
