"""Notebooks without outputs: removes what running them has left.

    python tools/strip_notebooks.py       # writes each notebook of notebooks/ again

Outputs are not stored: they would differ from what the present code gives, and their pictures would
make every change unreadable. tests/test_notebooks.py compares the files.
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def stripped(text: str) -> str:
    """The notebook with numbered cells, and without outputs, counts and editors' settings."""
    notebook = json.loads(text)
    for number, cell in enumerate(notebook["cells"], 1):
        cell |= {"id": f"cell-{number}", "metadata": {}}
        if cell["cell_type"] == "code":
            cell |= {"execution_count": None, "outputs": []}
    notebook["metadata"] = METADATA
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        path.write_text(stripped(path.read_text("utf-8")), "utf-8")
