"""The notebook under examples/ runs from top to bottom, and shows its predictions as reports."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_the_notebook_runs_and_shows_reports(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # results of one machine are not kept
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output["data"].get("text/html", output["data"].get("text/plain"))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    assert shown[0].startswith("<Recognizer meld-text")
    reports = [html for html in shown if "<iframe" in html]
    assert len(reports) == 2  # of the prediction and of the explanation
    assert all("I got the job!" in html for html in reports)
    assert (tmp_path / "prediction.json").stat().st_size > 0
