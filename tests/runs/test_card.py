"""Model card: metadata for the hub, text for a reader, escaping."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub.repocard import metadata_load

from rellm_cache.config.schema import (
    AdapterConfig,
    EncoderConfig,
    LLMConfig,
    LoraConfig,
    LossesConfig,
    Recipe,
)
from rellm_cache.runs.card import Card, metadata, render_card, render_licences
from rellm_cache.runs.provenance import DataSummary, TrainingRecord
from rellm_cache.runs.weights import AdapterInfo

AUDEERING = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
DATA = DataSummary(
    4290, 5.5, 8, {"iemocap": 4290}, {"train": 4290}, {"angry": 800, "sad": 900},
    {"human": 4290}, "paper, seed 1",
)  # fmt: skip
MACHINE = {"device": "a GPU", "dtype": "float32", "torch": "2.13.0", "rellm": "0.1.0"}
SCORES = {
    "clips": 1241,
    "data": {
        "clips": 1241, "hours": 1.6, "speakers": 2, "corpora": {"iemocap": 1241},
        "splits": {"test": 1241}, "emotions": {}, "dimensions": {}, "prepared": "",
    },
    "head": {"ua": 0.61234, "accuracy": 0.6, "ccc": {"arousal": 0.7}},
    "llm": {"ua": 0.7, "accuracy": 0.6, "generation": None, "unparsable": None},
    "empathy": None,
    "losses": {},
}  # fmt: skip


@pytest.fixture
def card() -> Card:
    recipe = Recipe(
        name="re-llm",
        encoders={
            "speech": EncoderConfig(
                kind="whisper", model="openai/whisper-large-v2", weights_sha256="ab" * 32
            ),
            "emotion": EncoderConfig(
                kind="wav2vec2-emotion", model=AUDEERING, weights_sha256="cd" * 32
            ),
        },
        llm=LLMConfig(model="Qwen/Qwen2.5-7B-Instruct", revision="a09a35458c70"),
    )
    licences = {
        "openai/whisper-large-v2": "MIT",
        AUDEERING: "CC-BY-NC-SA-4.0",
        "Qwen/Qwen2.5-7B-Instruct": "Apache-2.0",
    }
    return Card(
        recipe,
        AdapterInfo({"speech": 1280, "emotion": 1024}, 4096, 205_000_000, licences),
        TrainingRecord("0.1.0", DATA, None, 804, 3600.0, 1, MACHINE, "ef" * 32, "", {"ua": 0.6}),
        None,
    )


def test_head_as_the_hub_reads_it(card: Card, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(render_card(replace(card, scores=SCORES)), "utf-8")
    head = metadata_load(tmp_path / "README.md")
    assert head == metadata(replace(card, scores=SCORES))
    assert head["license"] == "cc-by-nc-sa-4.0"
    assert head["library_name"] == "rellm"
    assert head["language"] == ["en"]
    assert head["datasets"] == ["iemocap"]
    assert head["base_model"] == [
        "Qwen/Qwen2.5-7B-Instruct", "openai/whisper-large-v2", AUDEERING,
    ]  # fmt: skip
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"] == {"type": "iemocap", "name": "iemocap", "split": "test"}
    assert {"type": "recall", "name": "UA, category head", "value": 0.6123} in result["metrics"]


def test_a_card_has_parts_data_training_and_licences(card: Card) -> None:
    page = " ".join(render_card(card).split())
    for expected in (
        "`openai/whisper-large-v2`, last layer, window 30s, version 1 | weights `abababababababab`",
        "nf4 | revision `a09a35458c70`, weights `efefefefefefefef`",
        "205,000,000 parameters",
        "4,290 utterances, 5.50 h, 8 speakers; iemocap 4,290 (splits: paper, seed 1)",
        "angry 800, sad 900",
        "804 steps, 3 epochs, 16 clips a step, seed 1, 3600 s on a GPU (1 process)",
        "On the validation split, of the best weights: ua 60.0 %.",
        "`response_lm` 1.0, `emotion_ce` 1.0, `vad` 1.0",
        "None: `rellm evaluate`",
        "rellm generate adapter speech.wav",
        "For non-commercial use only.",
        "must keep the same licence",
        "`iemocap` is available for research",
        "may not be passed on",
    ):
        assert expected in page
    assert "unknown" not in page.split("## Licences")[1]


def test_scores_name_their_split(card: Card) -> None:
    page = render_card(replace(card, scores=SCORES))
    assert "1,241 utterances, 1.60 h, 2 speakers; iemocap 1,241; splits: test 1,241." in page
    assert "| UA, category head | 61.2 % |" in page
    assert "None: `rellm evaluate`" not in page


def test_unknown_values_are_named_or_left_out(card: Card) -> None:
    training = replace(card.training, train=replace(DATA, corpora={"another corpus": 4290}))
    info = replace(card.info, licences={"lab/whisper": "MIT", "lab/chat": "unknown"})
    found = replace(card, training=training, info=info)
    head = metadata(found)
    assert (head["license"], head["license_name"]) == ("other", "unknown")
    assert "language" not in head
    assert "datasets" not in head
    for page in (render_card(found), render_licences(found)):
        assert "The licence of `lab/chat` is unknown" in page
        assert "terms of their own corpus" in page
        assert "non-commercial" not in page


def test_a_card_without_an_llm_mentions_no_answers(card: Card) -> None:
    recipe = replace(
        card.recipe,
        llm=None,
        losses=LossesConfig(response_lm=0),
        adapter=AdapterConfig(output_size=576),
    )
    page = render_card(replace(card, recipe=recipe))
    assert metadata(replace(card, recipe=recipe))["pipeline_tag"] == "audio-classification"
    assert "rellm generate" not in page
    assert "There is no LLM" in page


def test_an_untrained_head_is_named(card: Card) -> None:
    warning = "was not trained: its output means nothing"
    assert warning not in render_card(card)
    training = replace(card.training, train=replace(DATA, dimensions={}))
    assert warning in render_card(replace(card, training=training))


def test_speaker_normalization_is_named(card: Card) -> None:
    assert "by speaker" not in render_card(card)
    encoders = {n: replace(e, speaker_normalization=True) for n, e in card.recipe.encoders.items()}
    recipe = replace(card.recipe, encoders=encoders)
    page = render_card(replace(card, recipe=recipe, scores=SCORES))
    assert ", normalized by speaker | " in page
    assert "The scores are of clips whose speakers are known" in page
    assert "speech.wav" not in page


def test_questions_in_training_are_named(card: Card) -> None:
    assert "questions and answers" not in render_card(card)
    losses = replace(card.recipe.losses, qa_lm=0.5)
    page = render_card(replace(card, recipe=replace(card.recipe, losses=losses)))
    assert "- questions and answers about these utterances, written by a text LLM" in page
    assert ", `qa_lm` 0.5," in page


def test_lora_is_named(card: Card) -> None:
    assert card.recipe.llm is not None
    llm = replace(card.recipe.llm, lora=LoraConfig())
    page = render_card(replace(card, recipe=replace(card.recipe, llm=llm)))
    assert "adapter, heads and LoRA, trained" in page
    assert "LoRA beside frozen weights" in page


def test_names_and_licences_are_escaped(card: Card) -> None:
    nasty = "x`|\n---\n# Title\n<script>alert(1)</script> [a](http://b) {{ 1 }}"
    info = replace(card.info, licences={nasty: nasty})
    training = replace(card.training, machine=MACHINE | {"device": nasty})
    found = replace(card, recipe=replace(card.recipe, name=nasty), info=info, training=training)
    page = render_card(found)
    head, _, body = page.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head)["license"] == "other"
    lines = body.splitlines()
    assert [line for line in lines if line.startswith("# ")] == [lines[1]]
    assert lines[1].startswith(r"# x\`\| --- \# Title \<script\>")
    outside_code = "".join(part for i, part in enumerate(body.split("`")) if i % 2 == 0)
    assert "<script>" not in outside_code.replace(r"\<script\>", "")
    assert "{{ 1 }}" not in outside_code
    assert "](http://b)" not in outside_code.replace(r"\](http://b)", "")
