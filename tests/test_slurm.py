"""Slurm scripts: checked by shellcheck, shown in docs/slurm.md, and run as tasks of a job are.

There is no Slurm: `scontrol` writes down what it was asked. Models are tiny. The scripts' `rellm`
asks the test, which answers with a forked child that has imported everything already.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from training_processes import fork

import rellm_cache as rellm
from rellm_cache.cli import main
from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_lines

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "examples/slurm"
ARRAY = {"SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_MAX": "5", "SLURM_ARRAY_TASK_COUNT": "2"}
RELLM = """
request=$(mktemp -d requests/XXXXXX)
env -0 > "$request/environment"
printf '%s\\0' "$@" > "$request/words"
touch "$request/ready"
until [ -e "$request/code" ]; do sleep 0.05; done
cat "$request/log"
exit "$(cat "$request/code")"
"""


@pytest.mark.parametrize("name", ["extract.sh", "array.sh", "train.sh"])
def test_page_shows_the_script(name: str) -> None:
    page = (ROOT / "docs/slurm.md").read_text("utf-8")
    assert f"```sh\n{(SCRIPTS / name).read_text('utf-8')}```\n" in page


def test_shellcheck_finds_nothing() -> None:
    scripts = sorted(map(str, SCRIPTS.glob("*.sh")))
    assert len(scripts) == 3
    words = [str(Path(sys.executable).parent / "shellcheck"), *scripts]
    checked = subprocess.run(words, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run scripts in, with programs in `bin`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "requests").mkdir()
    for name, lines in {
        "rellm": RELLM,
        "torchrun": f'exec "{sys.executable}" -m torch.distributed.run "$@"',
        "scontrol": f'echo "$@" >> "{tmp_path}/scontrol"',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(node: Path, script: str, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Begin a script with the variables of a job."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    own = {"PATH": f"{node}/bin{os.pathsep}{kept['PATH']}", "SLURM_JOB_ID": "4711"}
    return subprocess.Popen(
        [str(SCRIPTS / script), *words],
        env=kept | own | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def answer(request: Path) -> int:
    """Begin the command that a script asked for; its process id."""
    words = (request / "words").read_text("utf-8").split("\0")[:-1]
    rows = (request / "environment").read_text("utf-8").split("\0")[:-1]
    environment = dict(row.split("=", 1) for row in rows)
    return fork(lambda: main(words), request / "log", **environment)


def serve(node: Path, *jobs: subprocess.Popen[str]) -> list[str]:
    """Answer each call of `rellm` until the jobs have ended well; what they printed."""
    children: dict[int, Path] = {}
    while any(job.poll() is None for job in jobs):
        for ready in node.glob("requests/*/ready"):
            ready.unlink()
            children[answer(ready.parent)] = ready.parent
        for pid, request in list(children.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                (request / "part").write_text(str(os.waitstatus_to_exitcode(status)))
                (request / "part").rename(request / "code")
                del children[pid]
        time.sleep(0.02)
    outputs = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), "\n".join(outputs)
    return outputs


def environments(node: Path, name: str) -> list[str]:
    """A variable in each call of `rellm`, "" where it was not set."""
    texts = [file.read_text("utf-8") for file in node.glob("requests/*/environment")]
    rows = [dict(row.split("=", 1) for row in text.split("\0")[:-1]) for text in texts]
    return sorted(row.get(name, "") for row in rows)


def test_an_array_fills_a_cache_and_two_processes_train_from_it(
    node: Path, corpus: Path, speech_recipe: Recipe
) -> None:
    quick = replace(speech_recipe.training, epochs=1, batch_size=4)
    (node / "tiny.toml").write_text(to_toml(replace(speech_recipe, training=quick)), "utf-8")
    words = [corpus.name, "tiny.toml", "cache"]
    tasks = [start(node, "extract.sh", *words, **ARRAY, SLURM_ARRAY_TASK_ID=i) for i in ("4", "5")]
    outputs = serve(node, *tasks)
    assert all(" clips encoded" in output for output in outputs)
    (store,) = (node / "cache").glob("tiny-whisper-*-????????????")
    assert len(rellm.open_store(store)) == 11
    two = {"SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "2"}
    serve(node, start(node, "train.sh", *words, "runs/two", "--set", "seed=5", **two))
    assert rellm.load_run("runs/two").recipe.seed == 5
    assert environments(node, "RANK") == ["", "", "0", "1"]


def test_an_array_writes_responses(node: Path, corpus: Path, recipe: Recipe) -> None:
    (node / "tiny.toml").write_text(to_toml(recipe), "utf-8")
    words = ["respond", f"{corpus.name}/test.jsonl", "--recipe", "tiny.toml"]
    tasks = [start(node, "array.sh", *words, **ARRAY, SLURM_ARRAY_TASK_ID=i) for i in ("4", "5")]
    outputs = serve(node, *tasks)
    assert sum("responses.jsonl: 2 responses" in output for output in outputs) == 1
    rows = read_lines(corpus / "test.responses.jsonl")
    assert [row["id"] for _, row in rows] == ["tones/09", "tones/10"]


@pytest.mark.parametrize(
    ("script", "words"), [("extract.sh", ("m", "r", "c")), ("array.sh", ("respond", "m"))]
)
def test_an_array_with_gaps_is_refused(node: Path, script: str, words: tuple[str, ...]) -> None:
    gaps = ARRAY | {"SLURM_ARRAY_TASK_MAX": "8"}
    job = start(node, script, *words, **gaps, SLURM_ARRAY_TASK_ID="4")
    assert "an array with gaps" in job.communicate()[0]
    assert job.returncode == 2


@pytest.mark.parametrize("script", ["extract.sh", "array.sh", "train.sh"])
def test_missing_arguments_are_named(node: Path, script: str) -> None:
    job = start(node, script, "manifest")
    assert "usage: sbatch" in job.communicate()[0]
    assert job.returncode == 2


@pytest.mark.parametrize("script", ["extract.sh", "array.sh", "train.sh"])
def test_before_its_time_limit_a_job_is_queued_again(node: Path, script: str) -> None:
    for name in ("rellm", "torchrun"):
        (node / "bin" / name).write_text("#!/bin/sh\ntouch begun\nexec sleep 600\n")
    job = start(node, script, "m", "r", "c", "o", **ARRAY, SLURM_ARRAY_TASK_ID="4")
    while not (node / "begun").exists():
        assert job.poll() is None
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait() == 128 + signal.SIGUSR1
    os.killpg(job.pid, signal.SIGKILL)  # `sleep`: Slurm ends what a job leaves
    job.communicate()
    assert (node / "scontrol").read_text() == "requeue 4711\n"
