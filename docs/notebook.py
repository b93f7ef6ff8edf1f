"""Run docs/one_fact.ipynb and keep what it printed; with --check, run it and keep nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PATH = Path(__file__).parent / "one_fact.ipynb"


def executed(path: Path = PATH, *, timeout: int = 1800) -> nbformat.NotebookNode:
    """The notebook after running all its cells; an error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=timeout, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":  # progress bars and warnings of libraries are no results
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


if __name__ == "__main__":
    found = executed()
    if "--check" not in sys.argv[1:]:
        nbformat.write(found, PATH)
