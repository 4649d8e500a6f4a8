"""Page of costs: its planned rows are what `rellm plan` counts now."""

from what_it_costs import BEGIN, CORPORA, END, PAGE, lengths, tables, with_tables


def test_rows_of_the_smallest_corpus_are_planned_now() -> None:
    page = PAGE.read_text("utf-8")
    rows = [line for line in tables(CORPORA[:1]).splitlines() if line.startswith("| IEMOCAP")]
    assert len(rows) > 2
    for row in rows:
        assert row in page, "run `python tools/what_it_costs.py`"


def test_every_corpus_is_in_both_tables() -> None:
    planned = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    for corpus in CORPORA:
        assert f"| {corpus.name} | {corpus.clips:,} |" in planned
        assert planned.count(f"| {corpus.name} | `") > 2


def test_made_lengths_have_the_published_mean() -> None:
    for corpus in CORPORA[:2]:
        seconds = lengths(corpus)
        assert len(seconds) == corpus.clips
        assert abs(seconds.mean() / corpus.seconds - 1) < 0.001
        assert seconds.min() >= 1
        assert seconds.max() <= 30


def test_only_the_planned_part_of_a_page_is_written() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_tables(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
