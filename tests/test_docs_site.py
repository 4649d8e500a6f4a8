"""Documentation site: its pages, its navigation, and what a reader's browser would load."""

import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from docs_site import MOVED, decision_groups, rewrite_links
from markdown_it import MarkdownIt

import rellm_cache as rellm

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DECISIONS = DOCS / "decisions"
# MkDocs in a process that may not connect to anything.
WITHOUT_NETWORK = """
import runpy, sys
def refuse(event, arguments):
    if event == "socket.connect":
        raise PermissionError(f"the site connects to {arguments[1]}")
sys.addaudithook(refuse)
runpy.run_module("mkdocs", run_name="__main__")
"""


def nav_pages(entries: list[object]) -> list[str]:
    """Paths of the pages in a navigation, in order."""
    pages = []
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            pages += nav_pages(value) if isinstance(value, list) else [str(value)]
    return pages


def test_every_page_is_in_the_navigation_once() -> None:
    nav = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    pages -= {f"decisions/{path.name}" for path in DECISIONS.glob("0*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in ROOT.glob("notebooks/*.ipynb")}
    assert Counter(nav) == Counter(pages | notebooks | set(MOVED.values())), (
        "list the page in `nav` of mkdocs.yml"
    )


def test_every_decision_has_a_subject() -> None:
    listed = [path for group in decision_groups() for pages in group.values() for path in pages]
    written = [f"decisions/{path.name}" for path in DECISIONS.glob("0*.md")]
    assert sorted(listed) == sorted(written), "list the decision in docs/decisions/README.md"


def test_decisions_are_listed_with_their_titles() -> None:
    text = (DECISIONS / "README.md").read_text("utf-8")
    for number, name, title in re.findall(r"^- \[(\d+)\]\((\S+)\) (.*)$", text, re.M):
        assert (DECISIONS / name).read_text("utf-8").startswith(f"# {number} {title}\n")


def test_the_api_page_has_every_public_name_once() -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    names = re.findall(r"^::: rellm_cache\.(\w+)$", text, re.M)
    assert sorted(names) == sorted(rellm.__all__)


def test_links_between_pages_are_rewritten() -> None:
    text = "[docs/demo.md](docs/demo.md#x) ![A](docs/overview.svg) [b](docs/decisions/) [c](NOTICE)"
    assert rewrite_links(text, "index.md") == (
        "[The demo](demo.md#x) ![A](overview.svg) [b](decisions/README.md) [c](files/NOTICE)"
    )
    text = "[first page](../README.md) [web](https://example.org/a.md) [here](#x)"
    assert rewrite_links(text, "demo.md") == (
        "[first page](index.md) [web](https://example.org/a.md) [here](#x)"
    )
    assert rewrite_links("```text\n[a](docs/demo.md)\n```\n", "index.md").count("docs/") == 1


# --- the built site ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a network and with warnings as errors."""
    out = tmp_path_factory.mktemp("site")
    words = ["build", "--strict", "--site-dir", str(out)]
    built = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, *words],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return out


class Elements(HTMLParser):
    """Counts of the elements of a page, or of its article, and what it loads."""

    COUNTED = frozenset(["h1", "h2", "h3", "h4", "li", "ol", "pre", "table", "tr", "ul"])
    LOADED = frozenset([("link", "href"), *((tag, "src") for tag in ("script", "img", "iframe"))])

    def __init__(self, html: str, article: bool = False) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.loads: list[str] = []
        self.counting = not article
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counting |= tag == "article"
        self.counts[tag] += self.counting and tag in self.COUNTED
        self.loads += [value for name, value in attrs if value and (tag, name) in self.LOADED]

    def handle_endtag(self, tag: str) -> None:
        self.counting &= tag != "article"


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        loads = Elements(page.read_text("utf-8")).loads
        assert loads
        assert [value for value in loads if re.match(r"\w+:|//", value)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?(\w+:)?//", sheet.read_text("utf-8")), sheet


def test_pages_look_as_in_a_checkout(site: Path) -> None:
    """Python-Markdown and CommonMark, which Git hosts use, must find the same lists and tables."""
    common = MarkdownIt("commonmark", {"html": True}).enable("table")
    sources = {page: ROOT / source for source, page in MOVED.items() if source.endswith(".md")}
    sources |= {str(path.relative_to(DOCS)): path for path in DOCS.rglob("*.md")}
    del sources["api.md"]  # made from docstrings
    for page, source in sources.items():
        built = site / page.replace("README.md", "index.md").replace(".md", ".html")
        expected = Elements(common.render(source.read_text("utf-8"))).counts
        assert +Elements(built.read_text("utf-8"), article=True).counts == +expected, page


def test_the_api_page_shows_signatures_and_examples(site: Path) -> None:
    text = (site / "api.html").read_text("utf-8")
    for name in rellm.__all__:
        assert f'id="rellm_cache.{name}"' in text
    shown = re.sub(r"<[^>]+>", "", text)
    assert "Example:" not in shown
    assert "&gt;&gt;&gt; import rellm_cache as rellm" in shown
