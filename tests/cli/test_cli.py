"""The command line: help for every command, exit codes, and messages without a traceback."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import NamedTuple

import click
import pytest

from rellm_cache import __version__
from rellm_cache.cli.commands import rellm
from rellm_cache.cli.options import FiniteRange, NamedPath
from rellm_cache.config.recipes import load_recipe, shipped_recipes, to_toml
from rellm_cache.config.schema import Recipe

MakeClip = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, as ("prepare", "ravdess")."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = list(commands(rellm))


def command_at(path: tuple[str, ...]) -> click.Command:
    found: click.Command = rellm
    for name in path:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


@pytest.fixture
def recipe_file(speech_recipe: Recipe, tmp_path: Path) -> Path:
    path = tmp_path / "speech.toml"
    path.write_text(to_toml(speech_recipe))
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_is_listed(run: Run, command: tuple[str, ...]) -> None:
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: rellm {' '.join(command)}")
    assert len(out.splitlines()[2].strip()) > 20  # a sentence says what it does
    _, listing, _ = run(*command[:-1], "--help")
    (row,) = (line for line in listing.splitlines() if line.split()[:1] == [command[-1]])
    assert not row.endswith("..."), "the first sentence does not fit the list of commands"


def command_of(path: tuple[str, ...]) -> click.Command:
    found: click.Command = rellm
    for name in path:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_with_exit_codes_of_its_own_explains_them(
    run: Run, command: tuple[str, ...]
) -> None:
    callback = command_of(command).callback
    returns_code = callback is not None and inspect.signature(callback).return_annotation is int
    assert ("xit code" in run(*command, "--help")[1]) == returns_code


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_has_help(command: tuple[str, ...]) -> None:
    options = [p for p in command_of(command).params if isinstance(p, click.Option)]
    silent = [o.name for o in options if not o.help and not str(o.name).endswith("_column")]
    assert silent in ([], ["validation_speakers", "test_speakers"])  # as the one before them


def test_help_imports_nothing_heavy() -> None:
    script = f"""
import sys
from rellm_cache.cli import main
for command in [[], *{[list(c) for c in COMMANDS]}]:
    try:
        main([*command, "--help"])
    except SystemExit as end:
        assert end.code == 0
heavy = {{"torch", "ray", "transformers", "zarr", "librosa", "soundfile", "bitsandbytes"}}
sys.exit(f"imported: {{heavy & sys.modules.keys()}}" if heavy & sys.modules.keys() else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_are_listed_in_the_order_of_work(run: Run) -> None:
    _, out, _ = run("--help")
    order, listing = out.partition("The order of work: ")[2].split("Commands:")
    work = order.partition(".")[0].replace(",", " ").split()
    listed = re.findall(r"^  (\S+)", listing, re.MULTILINE)
    assert listed == list(rellm.commands)
    assert work == [name for name in listed if name in work]


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"rellm, version {__version__}\n", "")


def test_prepare_extract_and_info(
    run: Run, corpus: Path, recipe_file: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "prepared", tmp_path / "cache"
    code, text, _ = run("prepare", "folder", corpus / "train.jsonl", "--out", out)
    assert code == 0
    assert f"Manifest: {out}" in text
    code, text, _ = run("extract", out, "--recipe", recipe_file, "--cache", cache)
    assert code == 0
    assert "7 clips encoded" in text
    code, text, _ = run("extract", out, "--recipe", recipe_file, "--cache", cache)
    assert code == 0
    assert "nothing to do, 7 clips are present" in text
    code, text, _ = run("cache", "info", cache)
    assert code == 0
    assert "tiny-whisper-last-" in text
    code, text, _ = run("cache", "info", cache, "--json")
    assert json.loads(text)["stores"][0]["clips"] == 7


def test_done_but_clips_failed_is_3(
    run: Run, corpus: Path, recipe_file: Path, tmp_path: Path
) -> None:
    (corpus.parent / "audio/01.wav").write_bytes(b"RIFF")
    out, cache = tmp_path / "prepared", tmp_path / "cache"
    code, text, err = run("prepare", "folder", corpus / "train.jsonl", "--out", out)
    assert (code, err) == (3, "")
    assert "1 clip left out, listed in" in text
    assert "tones/01" in text
    code, text, err = run("extract", corpus, "--recipe", recipe_file, "--cache", cache)
    assert (code, err) == (3, "")
    listed = Path(text.partition("1 clip failed, see ")[2].splitlines()[0])
    assert json.loads(listed.read_text())["id"] == "tones/01"


def test_short_clips_alone_are_no_failure(run: Run, make_clip: MakeClip, tmp_path: Path) -> None:
    make_clip("a.wav")
    make_clip("b.wav", seconds=0.2)
    make_clip("c.wav", channels=8)
    (tmp_path / "table.csv").write_text("audio\na.wav\nb.wav\nc.wav\n")
    code, text, _ = run("prepare", "folder", tmp_path / "table.csv", "--out", tmp_path / "out")
    assert code == 0
    assert "too short, 0.20 s < 1 s" in text
    assert "1 clip: 8 channels averaged to mono" in text


def test_a_failure_is_1_and_a_message(
    run: Run, corpus: Path, recipe_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"audio": "a.wav"}\nhello\n')
    misspelt = recipe_file.read_text().replace("epochs =", "epoch =")
    recipe_file.write_text(misspelt)
    for arguments, message in (
        (("cache", "info", tmp_path / "cache"), "found no store; `rellm extract` makes them"),
        (("extract", bad, "--recipe", "heads"), "bad.jsonl:2: not JSON"),
        (("extract", corpus, "--recipe", "tiny"), "tiny: no such recipe; shipped are "),
        (("extract", corpus, "--recipe", recipe_file), "did you mean 'epochs'?"),
        (("respond", corpus, "--recipe", "heads"), "recipe 'heads' has no [llm] table"),
        (("recipes", "small", "--set", "seed=x"), "seed = 'x': expected int"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert err.startswith("Error: ")
        assert message in err
        assert "Traceback" not in err


def test_a_folder_that_cannot_be_written_is_1(run: Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(
        "prepare", "folder", corpus / "train.jsonl", "--out", tmp_path / "file/manifest"
    )
    assert code == 1
    assert err.startswith("Error: ")
    assert str(tmp_path / "file") in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extrakt"], "No such command 'extrakt'"),
        (["extract", "."], "Missing option '--recipe'"),
        (["extract", ".", "--recipe", "small", "--batch-size", "0"], "0 is not in the range x>=1"),
        (["cache", "info", ".", "--colour"], "No such option"),
    ],
)
def test_wrong_usage_is_2(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_an_interruption_is_130_and_says_how_to_continue(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rellm_cache.config.recipes.shipped_recipes", interrupted)
    code, _, err = run("recipes")
    assert code == 130
    assert "Interrupted. Run the same command again to continue." in err


def test_recipes_are_listed_and_printed_with_all_fields(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("recipes")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(shipped_recipes())
    said = [line.partition("  ")[2].strip() for line in out.splitlines()]
    assert all(text.endswith(".") for text in said)
    code, out, _ = run("recipes", "small", "--set", "training.epochs=5")
    assert code == 0
    (tmp_path / "printed.toml").write_text(out)
    assert load_recipe(str(tmp_path / "printed.toml")) == load_recipe(
        "small", ["training.epochs=5"]
    )


def test_respond_by_shards_and_options_that_exclude_each_other(
    run: Run, corpus: Path, recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(to_toml(recipe))
    words = ("respond", corpus / "test.jsonl", "--recipe", tmp_path / "tiny.toml")
    outs = []
    for shard in ("1/2", "2/2"):
        code, out, _ = run(*words, "--shard", shard)
        assert code == 0
        outs.append(out.removeprefix(f"{corpus}/test.responses.jsonl: "))
    assert re.fullmatch(r"\d generated now; \d prompts? remains?, of shard 2/2\n", outs[0])
    assert outs[1].startswith("2 responses, ")
    code, _, err = run(*words, "--teacher", "--workers", "2")
    assert code == 2
    assert "--teacher runs here; leave out --workers, --shard and --ray" in err
    code, _, err = run(*words, "--endpoint", "http://127.0.0.1:9/v1", "--ray", "local")
    assert code == 2
    assert "--endpoint asks a server; leave out --workers and --ray" in err


def test_respond(run: Run, corpus: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(to_toml(recipe))
    code, out, _ = run("respond", corpus / "test.jsonl", "--recipe", tmp_path / "tiny.toml")
    assert code == 0
    assert out == f"{corpus}/test.responses.jsonl: 2 responses, 2 generated now\n"
    options = ("--recipe", tmp_path / "tiny.toml", "--teacher", "--cache", tmp_path / "cache")
    code, out, _ = run("respond", corpus / "test.jsonl", *options)
    assert code == 0
    assert "/cache/tiny-chat-teacher-" in out
    assert out.endswith(": 2 responses stored now, 0 were already there\n")
    code, out, _ = run("cache", "info", tmp_path / "cache")
    assert code == 0
    assert "tiny-chat-teacher-" in out
    code, out, _ = run("cache", "ls", next((tmp_path / "cache").glob("*-teacher-*")))
    assert code == 0
    assert " tokens  " in out


def test_plan_then_a_shard_and_the_rest_by_workers(
    run: Run, corpus: Path, recipe_file: Path, tmp_path: Path
) -> None:
    options = ("--recipe", recipe_file, "--cache", tmp_path / "cache")
    code, out, _ = run("plan", corpus, *options, "--clips", "2")
    assert code == 0
    assert "11 clips, 0.01 h of audio" in out
    assert "estimated from 2 clips on this machine" in out
    code, out, _ = run("plan", corpus, *options, "--json")
    assert code == 0
    assert json.loads(out)["streams"][0]["missing"] == 11
    auto = ("--set", "training.micro_batch_tokens=auto", "--gpu-gb", "1", "--clips", "1")
    code, out, _ = run("plan", corpus, *options, *auto)
    assert code == 0
    assert "It fits into 1.0 GB, with 500.0 MB used by CUDA" in out
    assert "--set" not in out
    code, out, _ = run("plan", corpus, *options, "--gpu-gb", "0.5", "--clips", "1")
    assert code == 0
    assert "No set of options that keeps the model fits" in out
    code, out, _ = run("extract", corpus, *options, "--shard", "1/2")
    assert code == 0
    first = int(out.partition(" clips encoded")[0].rpartition(" ")[2])
    assert "; the encoders computed " in out
    code, out, _ = run("extract", corpus, *options, "--workers", "1")
    assert code == 0
    assert f"{11 - first} clips encoded" in out
    code, out, _ = run("plan", corpus, *options)
    assert code == 0
    assert "Nothing to encode: the cache has every clip" in out
    assert "estimated" not in out
    code, out, err = run("extract", corpus, *options, "--shard", "3/2")
    assert (code, out) == (1, "")
    assert "expected i/n with 1 <= i <= n" in err


class Usage(NamedTuple):
    """As shutil.disk_usage gives it."""

    total: int
    used: int
    free: int


def test_a_disk_without_room_is_a_warning(
    run: Run, corpus: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10, 9, 1))
    code, out, err = run(
        "plan", corpus, "--recipe", recipe_file, "--cache", tmp_path / "cache", "--json"
    )
    assert (code, json.loads(out)["fits"]) == (0, False)
    assert "needed, 0.0 MB free; free some space or choose another --cache" in err


def test_an_input_that_is_missing_is_1_and_near_names_are_told(run: Run, corpus: Path) -> None:
    near = corpus / "tset.jsonl"
    code, out, err = run("evaluate", corpus.parent, near)
    assert (code, out) == (1, "")
    assert err == f"Error: {near}: no such file or folder; did you mean {corpus}/test.jsonl?\n"
    code, _, err = run("evaluate", corpus / "test.jsonl", corpus)
    assert (code, "test.jsonl: expected a folder" in err) == (1, True)
    code, _, err = run("generate", corpus.parent, "nothing/at/all", "--out", "x.jsonl")
    assert (code, err) == (1, "Error: nothing/at/all: no such file or folder; check the path\n")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--recipe", "heads", "--manifest", "{corpus}", "--out", ""),
        ("extract", "{corpus}", "--recipe", "heads", "--cache", ""),
        ("prepare", "folder", "{corpus}/train.jsonl", "--out", ""),
        ("evaluate", "{corpus}", "{corpus}/test.jsonl", "--out", ""),
        ("generate", "{corpus}", "{corpus}/test.jsonl", "--out", ""),
    ],
    ids=lambda words: words[0],
)
def test_an_empty_path_is_not_the_working_folder(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, out, err = run(*(word.format(corpus=corpus) for word in words))
    assert (code, out) == (2, "")
    assert "found empty text, expected a path; for this folder write `.`" in err
    assert list(Path().iterdir()) == []
    code, _, err = run("check", "")
    assert (code, err) == (1, "Error: found an empty path, expected a folder; check the path\n")


@pytest.mark.parametrize("out", ["/dev/null", "/dev/null/x", "x" * 300, "file/x"])
def test_an_error_of_the_system_names_file_and_fix(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    code, _, err = run("prepare", "folder", corpus / "train.jsonl", "--out", out)
    assert code == 1
    assert err.splitlines()[-1].startswith("Error: ")
    assert out[:9] in err.splitlines()[-1]
    assert "check the " in err
    assert "Errno" not in err


def test_a_name_of_other_bytes_is_named(run: Run, corpus: Path, tmp_path: Path) -> None:
    name = tmp_path / os.fsdecode(b"r\xff")
    code, _, err = run("train", "--recipe", "heads", "--manifest", corpus, "--out", name)
    assert (code, "a name that is not UTF-8; rename it" in err) == (2, True)
    name.mkdir()
    code, _, err = run("check", name)
    assert (code, "a name that is not UTF-8; rename it" in err) == (1, True)


def test_a_terminal_without_all_characters(corpus: Path, tmp_path: Path) -> None:
    """What it cannot show is printed as an escape; nothing ends in a traceback."""
    words = ["prepare", "folder", corpus / "train.jsonl", "--out", tmp_path / "漢字"]
    done = subprocess.run(
        [sys.executable, "-m", "rellm_cache.cli", *words],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "/\\u6f22\\u5b57/report.json" in done.stdout


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "-1"])
@pytest.mark.parametrize(
    "words",
    [
        ("plan", "{corpus}", "--recipe", "heads", "--gpu-gb"),
        ("plan", "{corpus}", "--recipe", "heads", "--tflops"),
        ("extract", "{corpus}", "--recipe", "heads", "--commit-seconds"),
    ],
    ids=lambda words: words[-1],
)
def test_numbers_are_finite_and_in_their_range(
    run: Run, corpus: Path, words: tuple[str, ...], value: str
) -> None:
    code, _, err = run(*(word.format(corpus=corpus) for word in words), value)
    assert (code, f"for '{words[-1]}'" in err) == (2, True)


def test_every_number_and_path_of_a_command_is_checked() -> None:
    found = [
        f"{' '.join(path)} {parameter.name}"
        for path in COMMANDS
        for parameter in command_at(path).params
        if isinstance(parameter.type, click.types.FloatParamType | click.Path)
        and not isinstance(parameter.type, FiniteRange | NamedPath)
    ]
    assert found == []


def test_the_recipe_is_checked_before_other_inputs(run: Run, tmp_path: Path) -> None:
    gone, out = tmp_path / "gone", ("--out", tmp_path / "out")
    wrong = ("--recipe", "heads", "--set", "training.epoch=3")
    for words in (
        ("train", "--manifest", gone, *out),
        ("sweep", "--manifest", gone, *out),
        ("plan", gone),
        ("extract", gone),
        ("qa", gone),
    ):
        for given in ((*words, *wrong), (words[0], *wrong, *words[1:])):
            code, _, err = run(*given)
            assert code == 1, given
            assert "recipe 'heads': training: unknown key 'epoch'; did you mean" in err, given
    seed = ("--recipe", "heads", "--set", "training.epochs={seed}", "--seeds", "1")
    assert "no such folder" in run("sweep", "--manifest", gone, *out, *seed)[2]


@pytest.mark.parametrize("module", ["rellm_cache.cli.commands", "click", "rellm_cache.cli.train"])
def test_ctrl_c_during_the_imports_is_no_traceback(module: str) -> None:
    script = f"""
import sys
from rellm_cache.cli import main
class Wait:
    def find_spec(name, path, target=None):
        if name == {module!r}:
            print("importing", flush=True)
            import time
            time.sleep(60)
sys.meta_path.insert(0, Wait)
main(["recipes"])
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "importing\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    said = "Interrupted. Run the same command again to continue.\n"
    assert (child.returncode, out, err) == (130, "", said)
