"""What a file of jobs comes to: a script for a queue that is not here, and processes for one that is."""

import os
import subprocess
import sys

import pytest
import yaml
from dask_processes import ROOT

from pipeline.cluster.job_queue import job_cluster, read_job_file
from pipeline.errors import InputError

SLURM = {
    "cluster": "SLURMCluster",
    "jobs": 4,
    "cores": 8,
    "memory": "32GB",
    "queue": "gpu",
    "walltime": "08:00:00",
    "job_extra_directives": ["--gres=gpu:1"],
}


@pytest.fixture
def write(tmp_path):
    def write(content):
        file = tmp_path / "jobs.yaml"
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return file

    return write


def test_the_script_of_a_slurm_job(write, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")  # no job is submitted
    file = write(SLURM | {"jobs": {"minimum": 0, "maximum": 4}, "local_directory": str(tmp_path)})
    with job_cluster(file) as cluster:
        lines = cluster.job_script().splitlines()
    for line in ("#SBATCH -p gpu", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=30G", "#SBATCH -t 08:00:00"):
        assert line in lines
    assert "#SBATCH --gres=gpu:1" in lines
    command = next(line for line in lines if "distributed.cli.dask_worker" in line or "dask worker" in line)
    first = lines.index("export OMP_NUM_THREADS=8")
    assert first < lines.index(command), "else Dask leaves the network one thread"
    assert "export OMP_WAIT_POLICY=PASSIVE" in lines[: lines.index(command)]
    assert "--nanny" in command


def test_threads_of_the_user_s_own_stay(write):
    _, jobs, options = read_job_file(
        write(SLURM | {"processes": 2, "job_script_prologue": ["module load python", "export OMP_NUM_THREADS=3"]})
    )
    assert jobs == 4
    assert options["job_script_prologue"] == [
        "export MKL_NUM_THREADS=4",
        "export OMP_WAIT_POLICY=PASSIVE",
        "module load python",
        "export OMP_NUM_THREADS=3",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (SLURM | {"cluster": "SLRMCluster"}, r"there is no cluster 'SLRMCluster'.*did you mean SLURMCluster\?"),
        ({"cores": 1}, r"does not say which 'cluster'"),
        (SLURM | {"que": "gpu"}, r"SLURMCluster has no setting 'que'.*did you mean queue\?"),
        (SLURM | {"job": 3}, r"no setting 'job'.*did you mean jobs\?"),
        (SLURM | {"scheduler": "tcp://a"}, r"no setting 'scheduler'"),
        ({"cluster": "PBSCluster", "cores": 2}, r"does not say memory of a job"),
        (SLURM | {"jobs": "many"}, r"'jobs' is 'many'"),
        (SLURM | {"jobs": -1}, r"'jobs' is -1"),
        (SLURM | {"jobs": {"minimum": 1}}, r"'jobs' is .*minimum.*Remedy: write 'jobs: 8'"),
        ("a: [", "is no YAML"),
        ("- a", "is no list of settings"),
    ],
)
def test_mistakes_are_told_before_any_job_is_sent(write, content, told):
    with pytest.raises(InputError, match=told) as caught:
        read_job_file(write(content))
    assert caught.value.file.endswith("jobs.yaml")


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml': cannot be read"):
        read_job_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["SLURM", "PBS", "SGE", "LSF", "OAR", "Moab", "HTCondor", "Local"])
def test_each_kind_of_queue_is_known(write, name):
    kind, jobs, _ = read_job_file(write({"cluster": f"{name}Cluster", "cores": 1, "memory": "1GB"}))
    assert kind.__name__ == f"{name}Cluster"
    assert jobs == 1


def test_a_machine_that_no_job_can_be_submitted_from(write, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no 'sbatch' on this machine"):
        job_cluster(write(SLURM))


IN_A_PROCESS = """
import os, sys
from pipeline.cluster.opening import Place, opened
if __name__ == "__main__":
    with opened(Place(jobqueue=sys.argv[1])) as client:
        print(client.submit(os.getpid).result(timeout=60) != os.getpid())
"""


def test_jobs_that_are_processes_here_do_the_work(write, tmp_path):
    """In a process of its own: dask-jobqueue leaves the pipes of such jobs open, which would be an error here."""
    content = {"cluster": "LocalCluster", "jobs": 1, "cores": 1, "memory": "2GB", "local_directory": str(tmp_path)}
    (tmp_path / "main.py").write_text(IN_A_PROCESS)
    command = [sys.executable, "main.py", str(write(content))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(tmp_path / "said", "w") as said:  # a pipe would be held open by the job, which ends a little later
        subprocess.run(command, cwd=tmp_path, env=environment, stdout=said, stderr=said, timeout=120, check=True)
    assert "True" in (tmp_path / "said").read_text().splitlines()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"cores": "eight"}, "'cores' is 'eight'"),
        ({"processes": 0}, "'processes' is 0"),
        ({"jobs": 0}, "'jobs' is 0"),
        ({"jobs": {"minimum": 5, "maximum": 2}}, "'maximum': 2, 'minimum': 5"),
    ],
)
def test_numbers_that_no_queue_can_take(write, entries, words):
    with pytest.raises(InputError) as caught:
        read_job_file(write(SLURM | entries))
    assert words in str(caught.value)
