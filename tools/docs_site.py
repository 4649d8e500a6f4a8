"""Documentation site: hooks of MkDocs for what lies outside docs/ and for the decisions.

Pages are written to be read in a checkout, too: they link to files with relative paths. Here the
pages of the checkout's root become pages of the site, notebooks become pages, and every other file
that a page links to is copied beside the pages.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
# A file of the checkout → the page of the site that shows it.
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "docs/decisions": "decisions/README.md",
    "notebooks": "notebooks/quick-start.md",  # the first of them
}
SOURCES = "files"  # folder of the site with files of the checkout that pages link to
LINK = re.compile(r"(\[(?P<text>[^\[\]]*))?\]\((?P<target>[^)\s#]+)(?P<anchor>(?:#[^)\s]*)?)\)")
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+).*?^(?P=indent)(?P=fence)$\n?", re.M | re.S)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Anchors like those of Git hosts; decisions by subject in the navigation."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    replace_entry(config.nav or [], "decisions/README.md", decision_groups())
    return config


def replace_entry(nav: list[Any], path: str, groups: list[dict[str, list[str]]]) -> None:
    """Put a section with groups of pages in the place of one page."""
    for entry in nav:
        for title, value in entry.items() if isinstance(entry, dict) else ():
            if value == path:
                entry[title] = [path, *groups]
            elif isinstance(value, list):
                replace_entry(value, path, groups)


def decision_groups() -> list[dict[str, list[str]]]:
    """Subject → pages, as the page of decisions lists them."""
    text = (ROOT / "docs/decisions/README.md").read_text("utf-8")
    sections = [section.partition("\n") for section in text.split("\n## ")[1:]]
    return [
        {title: [f"decisions/{name}" for name in re.findall(r"^- \[\d+\]\((\S+)\)", body, re.M)]}
        for title, _, body in sections
    ]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of the checkout's root, the notebooks, and the files that pages link to."""
    for source, page in MOVED.items():
        if (ROOT / source).is_file():
            text = (ROOT / source).read_text("utf-8")
            files.append(File.generated(config, page, content=text))
    for notebook in sorted(ROOT.glob("notebooks/*.ipynb")):
        name = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, name, content=notebook_page(notebook)))
    for page in [page for page in files if page.is_documentation_page()]:
        for path in linked_files(page.content_string, source_of(page.src_uri)):
            uri = site_uri(path)
            if files.get_file_from_path(uri) is None:
                content = (ROOT / path).read_bytes()
                added = File.generated(
                    config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV
                )
                files.append(added)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between files of the checkout as links between pages of the site."""
    del config, files
    return rewrite_links(markdown, page.file.src_uri)


def rewrite_links(markdown: str, uri: str) -> str:
    """The Markdown of a page with links that hold in the site."""
    source = source_of(uri)

    def rewrite(found: re.Match[str]) -> str:
        path = checkout_path(found["target"], source)
        if path is None:
            return found[0]
        text = found[1] or ""
        if text.removeprefix("[") == found["target"] and path.endswith(".md"):
            text = f"[{title_of(path)}"  # a page's title in place of its file's name
        target = posixpath.relpath(site_uri(path), posixpath.dirname(uri))
        return f"{text}]({target}{found['anchor']})"

    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [LINK.sub(rewrite, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, LINK.sub(rewrite, markdown[end:])])


def title_of(path: str) -> str:
    """The first heading of a Markdown file of the checkout."""
    return (ROOT / path).read_text("utf-8").partition("\n")[0].removeprefix("# ")


def source_of(uri: str) -> str:
    """The file of the checkout that a page of the site shows."""
    if uri.startswith("notebooks/"):
        return uri.removesuffix(".md") + ".ipynb"
    return next((source for source, page in MOVED.items() if page == uri), f"docs/{uri}")


def site_uri(path: str) -> str:
    """Where the site has a file of the checkout."""
    if path in MOVED:
        return MOVED[path]
    if path.startswith("notebooks/") and path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{SOURCES}/{path}"


def checkout_path(target: str, source: str) -> str | None:
    """The file of the checkout to which a page's link leads; None for other links."""
    if "://" in target or target.startswith("mailto:"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return path if (ROOT / path).exists() else None


def linked_files(markdown: str, source: str) -> set[str]:
    """Files of the checkout, outside docs/, that a page links to and that are no pages."""
    targets = (found["target"] for found in LINK.finditer(FENCE.sub("", markdown)))
    paths = {path for target in targets if (path := checkout_path(target, source))}
    return {p for p in paths if (ROOT / p).is_file() and site_uri(p).startswith(f"{SOURCES}/")}


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, and its code in fences."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"
