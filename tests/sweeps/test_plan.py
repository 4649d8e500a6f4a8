"""Sweep plans: variants and seeds become jobs; invalid plans are refused."""

from pathlib import Path

import pytest

from rellm_cache.errors import ConfigError
from rellm_cache.sweeps.plan import SweepPlan, Variant, parse_variant, read_variants

OUT = Path("sweeps/first")
NO_EMOTION = Variant("no-emotion", ("encoders.emotion=none",))


def test_jobs_go_seed_by_seed_from_the_baseline() -> None:
    jobs = SweepPlan("small", ("training.epochs=2",), (NO_EMOTION,), (1, 7)).jobs(OUT)
    assert [str(job.out.relative_to(OUT)) for job in jobs] == [
        "baseline/seed-1", "no-emotion/seed-1", "baseline/seed-7", "no-emotion/seed-7",
    ]  # fmt: skip
    assert [job.seed for job in jobs] == [1, 1, 7, 7]
    assert {job.recipe.training.epochs for job in jobs} == {2}
    assert ["emotion" not in job.recipe.encoders for job in jobs] == [False, True, False, True]


def test_runs_of_one_llm_follow_each_other() -> None:
    plain = Variant("int8", ("llm.quantization=int8",))
    bare = Variant("bare", ("losses.response_lm=0", "losses.emotion_lm=0", "adapter.output_size=8"))
    jobs = SweepPlan("small", (), (plain, bare, NO_EMOTION), (1, 2)).jobs(OUT)
    assert [job.title for job in jobs] == [
        "baseline, seed 1", "no-emotion, seed 1", "baseline, seed 2", "no-emotion, seed 2",
        "int8, seed 1", "int8, seed 2", "bare, seed 1", "bare, seed 2",
    ]  # fmt: skip


def test_a_value_can_contain_the_seed() -> None:
    plan = SweepPlan("heads", ("training.init_from=runs/{seed}/x",), (NO_EMOTION,), (3, 4))
    starts = [job.recipe.training.init_from for job in plan.jobs(OUT)]
    assert starts == ["runs/3/x", "runs/3/x", "runs/4/x", "runs/4/x"]


def test_variants_as_text_and_as_a_file(tmp_path: Path) -> None:
    text = 'pair: encoders.emotion=none; heads.emotions=["angry", "sad"]'
    pair = Variant("pair", ("encoders.emotion=none", 'heads.emotions=["angry", "sad"]'))
    assert parse_variant(text) == pair
    file = tmp_path / "variants.toml"
    file.write_text("""pair = ["encoders.emotion=none", 'heads.emotions=["angry", "sad"]']\n""")
    assert read_variants(file) == (pair,)


@pytest.mark.parametrize("text", ["losses.vad=0", "name:", "name: ;"])
def test_text_that_is_no_variant_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a name, a colon and overrides"):
        parse_variant(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = [", "not valid TOML"),
        ('a = "losses.vad=0"', "a = 'losses.vad=0': expected an array of overrides"),
        ("a = []", "expected an array of overrides"),
        ("[a]\nlosses = 0", "expected an array of overrides"),
    ],
)
def test_files_without_variants_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "variants.toml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_variants(tmp_path / "variants.toml")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (SweepPlan("heads", seeds=()), "found no seeds"),
        (SweepPlan("heads", ("seed=4",)), "give the seeds with --seeds"),
        (SweepPlan("heads", (), (Variant("x", ("training.epoch=1",)),)), "'x': .*'epochs'"),
        (SweepPlan("heads", (), (Variant("../x", ("training.epochs=1",)),)), "name of a folder"),
        (SweepPlan("heads", (), (NO_EMOTION, NO_EMOTION)), "another variant has this name"),
        (SweepPlan("heads", (), (Variant("baseline", ()),)), "the recipe as given has this name"),
        (
            SweepPlan("heads", (), (NO_EMOTION, Variant("x", NO_EMOTION.overrides))),
            "variant 'x': has the same recipe as 'no-emotion'",
        ),
        (
            SweepPlan("heads", (), (Variant("x", ("losses.emotion_ce=1.0",)),)),
            "variant 'x': has the same recipe as 'baseline'",
        ),
    ],
)
def test_invalid_plans_are_refused(plan: SweepPlan, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan.jobs(OUT)
