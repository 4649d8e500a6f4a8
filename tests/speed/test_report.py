"""Report of measured steps: its numbers, its row and its JSON."""

import json
from dataclasses import replace

import pytest

from rellm_cache.speed.report import BenchReport

REPORT = BenchReport(
    recipe="small",
    date="2026-01-31",
    device="A processor",
    threads=2,
    dtype="float32",
    versions={"rellm": "1", "torch": "2"},
    cap_bytes=None,
    llm="owner/model",
    weights="its own",
    tokenizer="its own",
    clips=8,
    recipe_clips=8,
    micro_batches=1,
    tokens=800,
    operations=1e10,
    warm_up=2,
    step_seconds=[1.0, 2.0, 4.0],
    processor_seconds=13.0,
    peak_operations=2e10,
    peak_source="a measured product",
    device_bytes=0,
    reserved_bytes=0,
    resident_bytes=1_500_000_000,
    start_bytes=500_000_000,
)


def test_figures_are_of_the_median_step() -> None:
    assert REPORT.mfu == pytest.approx(1e10 / 2 / 2e10)
    assert REPORT.epoch_seconds == pytest.approx(2 / 8 * 3861)
    assert REPORT.speed == "400 tokens a second"


def test_the_row_has_the_form_of_the_page() -> None:
    row = REPORT.row("rellm bench --recipe small")
    assert row == (
        "| A processor, 2 threads; rellm 1, torch 2 | `rellm bench --recipe small`: training, "
        "owner/model with its own weights, made frames | 400 tokens a second, MFU 25.0 % (of a "
        "measured product), peak 1.50 GB resident; 16 min for an epoch of IEMOCAP | 2026-01-31 |"
    )


def test_the_row_says_what_was_not_the_recipes() -> None:
    other = replace(REPORT, weights="random", tokenizer="made", clips=1, recipe_clips=8)
    row = other.row("x")
    assert "RANDOM weights of its shape, prompts of a made tokenizer" in row
    assert "1 clip a step" in row


def test_a_gpu_has_its_own_memory() -> None:
    gpu = replace(REPORT, threads=0, cap_bytes=6 * 10**9, device_bytes=1, reserved_bytes=5 * 10**9)
    assert gpu.machine == "A processor as a GPU of 6 GB"
    assert gpu.memory == "5.00 GB of the GPU"


def test_without_an_llm_clips_count() -> None:
    heads = replace(REPORT, llm="", weights="none", tokenizer="none", tokens=0)
    assert heads.speed == "4 clips a second"
    assert heads.model == "no LLM"
    assert heads.to_json("x")["tokens_a_second"] is None


def test_json_has_every_figure() -> None:
    found = json.loads(json.dumps(REPORT.to_json("rellm bench --recipe small")))
    assert found["mfu"] == pytest.approx(0.25)
    assert found["iemocap_epoch_seconds"] == pytest.approx(965.25)
    assert found["step_seconds"] == [1.0, 2.0, 4.0]
    assert found["row"].startswith("| A processor")


def test_a_busy_machine_is_named() -> None:
    assert REPORT.busy == ""
    busy = replace(REPORT, processor_seconds=3.5)
    assert busy.processor_share == pytest.approx(0.25)
    assert "other work ran: the process had 25.0 % of its threads" in busy.row("x")
    assert "made 686 tokens for each second of processor time |" in busy.row("x")  # 2,400 in 3.5 s
    assert "3 clips for each" in replace(busy, llm="", tokens=0, clips=4).busy
    assert replace(busy, threads=0).busy == ""  # on a GPU the processor waits
