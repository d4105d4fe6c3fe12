"""The notebook docs/tutorial.ipynb: its cells run one after another, and what is saved with it is small and whole."""

import json
import subprocess
import sys

import pytest

from dreamdrive.tests.tiny_run import ROOT, variables

NOTEBOOK = ROOT / "docs/tutorial.ipynb"
LARGEST = 800_000  # bytes, of a file that grows the repository by as much whenever it is saved
# Runs the cells as a kernel would, in one namespace, and says what they have shown and found.
RUN = """
import json, sys
import matplotlib.pyplot as plt
shown, names = [], {"__name__": "__main__"}
plt.show = lambda: (shown.append(plt.gcf().axes[0].has_data()), plt.close("all"))
for number, cell in enumerate(json.load(open(sys.argv[1]))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
print(json.dumps([
    shown, names["folder"].as_posix(), names["returns"].tolist(), names["rewards"].sum().item(),
    names["futures"].reward.sum(1).tolist(), list(names["episode"].obs.shape), names["z"].shape[1],
]))
"""


@pytest.fixture(scope="module")
def cells():
    content = json.loads(NOTEBOOK.read_text())
    assert (content["nbformat"], set(content)) == (4, {"cells", "metadata", "nbformat", "nbformat_minor"})
    return content["cells"]


def shows(cell: dict) -> bool:
    """Whether a cell calls what draws a picture."""
    return any(line.startswith(("plt.show(", "show(")) for line in cell["source"])


@pytest.mark.slow
def test_its_cells_run_one_after_another(cells, tmp_path):
    environment = variables() | {"MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", RUN, str(NOTEBOOK)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    shown, folder, returns, driven, futures, episode, latent = json.loads(done.stdout.splitlines()[-1])
    assert shown == [True] * sum(map(shows, cells))
    assert driven > 100 and min(returns) > 100, "the clone drives"
    assert futures.index(max(futures)) in range(4, 12), "straight on is better than a circle"
    assert episode == [101, 64, 64, 3] and latent == 32
    assert folder.startswith(str(tmp_path)), "beside the notebook nothing is written"


def test_what_is_saved_with_it_is_whole_and_small(cells):
    assert NOTEBOOK.stat().st_size < LARGEST
    for number, cell in enumerate(cells):
        outputs = cell.get("outputs", [])
        assert not [output for output in outputs if output["output_type"] == "error"], number
        pictures = [output for output in outputs if "image/png" in output.get("data", {})]
        assert len(pictures) == (cell["cell_type"] == "code" and shows(cell)), f"cell {number}: run all, and save"
        said = "".join("".join(output.get("text", "")) for output in outputs)
        assert not any(place in said for place in ("/tmp", "/home", "/root")), number


def test_its_prose_is_between_its_cells(cells):
    kinds = [cell["cell_type"] for cell in cells]
    assert kinds[0] == "markdown" and kinds.count("markdown") > kinds.count("code") / 2
