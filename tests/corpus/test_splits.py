"""Random splits: they depend only on seed and names."""

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.splits import draw, hold_out, text_key, without_text_of


def utterance(number: int, text: str = "", split: str = "train") -> Utterance:
    return Utterance(id=f"x/{number:03d}", audio="a.wav", text=text, split=split)


def test_a_draw_depends_on_seed_and_names_not_on_order() -> None:
    names = [f"n{i}" for i in range(100)]
    drawn = draw(names, 10, seed=1)
    assert len(drawn) == 10
    assert draw(reversed(names), 10, seed=1) == drawn
    assert draw(names, 10, seed=2) != drawn
    assert draw(names, 11, seed=1) > drawn
    assert draw(names, 1000, seed=1) == set(names)
    # Published draws must not change.
    assert draw("abcdefgh", 3, seed=1) == {"a", "d", "g"}


def test_removing_a_clip_moves_no_other() -> None:
    names = [f"n{i}" for i in range(100)]
    drawn = draw(names, 10, seed=1)
    undrawn = next(n for n in names if n not in drawn)
    assert draw([n for n in names if n != undrawn], 10, seed=1) == drawn


def test_a_tenth_of_train_becomes_validation() -> None:
    utterances = [utterance(i, split="test" if i < 20 else "train") for i in range(120)]
    held = hold_out(utterances, seed=1)
    assert [u.id for u in held] == [u.id for u in utterances]
    assert sum(u.split == "validation" for u in held) == 10
    assert held[:20] == utterances[:20]


def test_clips_of_one_unit_stay_together() -> None:
    utterances = [utterance(i, text=f"sentence {i % 20}") for i in range(100)]
    held = hold_out(utterances, seed=1, unit=lambda u: u.text)
    validation = [u.text for u in held if u.split == "validation"]
    assert len(validation) == 10
    assert len(set(validation)) == 2


def test_texts_are_equal_without_case_and_punctuation() -> None:
    assert text_key("  Don't -- you DARE!") == text_key("dont you dare") == "dont you dare"
    assert text_key("Über's Café, 3_4") == "übers café 3 4"
    assert text_key("[...]") == ""


def test_apostrophes_and_accents_do_not_matter() -> None:
    assert text_key("Don\u2019t you dare.") == text_key("Don't you dare.")
    assert text_key("cafe\u0301") == text_key("caf\u00e9") == "caf\u00e9"


def test_clips_with_a_text_of_the_test_are_dropped() -> None:
    clips = [
        utterance(0, "Yes.", "test"),
        utterance(1, "", "test"),
        utterance(2, "yes"),
        utterance(3, "no"),
        utterance(4, ""),
    ]
    kept, dropped = without_text_of(clips, "test")
    assert [u.id for u in kept] == ["x/000", "x/001", "x/003", "x/004"]
    assert dropped == 1
