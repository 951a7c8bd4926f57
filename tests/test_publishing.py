"""What is asked of stored rows, from their files to text and pages, and what a browser makes of these."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from dlas import publishing
from dlas.errors import StorageError, UsageError
from dlas.results import floors, store
from tests.results.conftest import made_row
from tests.results.made import replicates

DENSE = "digits/small/dense/fp32/dense/direct/scheduled/x86_avx"
CELLS = {  # median in microseconds, and the images that are wrong
    DENSE: (900, ()),
    DENSE.replace("direct", "gemm"): (1400, ()),
    DENSE.replace("direct/scheduled", "direct/minimal"): (60_000, ()),
    DENSE.replace("small/dense/fp32/dense", "small/weight@elbow/fp32/csr"): (300, range(3)),
    DENSE.replace("small/dense/fp32/dense", "small/channel@elbow_shrunk/fp32/dense"): (250, range(40)),
    DENSE.replace("fp32", "int8"): (400, ()),
    DENSE.replace("small", "wide"): (2500, (7,)),
    DENSE.replace("small/dense/fp32", "wide/dense/int8"): (1200, (7,)),
}
LEVELS = {"level_fraction": 0.9, "weight_sparsity_fraction": 0.9, "weight_bytes": 300_000, "finetuning": "x"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two networks on one device, one that failed, and the device's noise."""
    folder = tmp_path_factory.mktemp("artifacts")
    for cell, (median_us, wrong) in CELLS.items():
        more = LEVELS if "@elbow" in cell else {"weight_bytes": 3_000_000}
        for row in replicates(made_row, cell, median_us, wrong, sweep="digits", **more):
            store.write(folder, row)
    failed = made_row(cell=DENSE.replace("direct", "spatial_pack"), sweep="digits", status="failed")
    store.write(folder, replace_reason(failed))
    for row in replicates(made_row, DENSE, 900, None, processes=10, sweep=floors.SWEEP):
        store.write(folder, row)
    return folder


def replace_reason(row):
    return type(row)(**(vars(row) | {"reason": "the device went <away>"}))


@pytest.fixture(scope="module")
def pages(root: Path) -> Path:
    publishing.write_report("digits", root, {})
    return root / publishing.FOLDER / "digits"


def test_report_answers_what_is_best(pages: Path) -> None:
    text = (pages / "report.md").read_text()
    best = text.partition("## Best configurations at 1 point of accuracy")[2].partition("\n## ")[0]
    # channel@elbow_shrunk is faster and loses too much, csr is faster and nobody can tell from 360 images.
    assert "the best is digits/small/dense/int8/dense/direct/scheduled" in best.replace("\\", "")
    assert re.search(
        r"\*\*small\*\*.*\*\*dense/int8/dense/direct/scheduled\*\* \| \*\*4\d\d\.\d+ us \(", best
    )
    assert "wide | dense/int8/dense/direct/scheduled" in best.replace("\\", "")


def test_every_figure_leads_to_ids_of_rows(root: Path, pages: Path) -> None:
    html = (pages / "report.html").read_text()
    anchors = set(re.findall(r' id="(row-[0-9a-f]+)"', html))
    links = set(re.findall(r'href="#(row-[0-9a-f]+)"', html))
    assert len(links) == len(CELLS)
    assert links <= anchors
    known = {row.id for row in store.read(root, "digits").rows}
    shown = set(re.findall(r"\b[0-9a-f]{16}\b", html.partition('<h2 id="rows">')[2]))
    assert shown == {row.id for row in store.read(root, "digits").rows if row.status == "measured"}
    for name in pages.glob("*.svg"):
        marks = re.findall(r"rows ([0-9a-f ]+)<", name.read_text())
        assert all(set(mark.split()) <= known for mark in marks)
        assert marks or name.stem == "effort"


def test_what_a_device_said_is_no_markup(pages: Path) -> None:
    html = (pages / "report.html").read_text()
    assert "the device went &lt;away&gt;" in html
    assert "<away>" not in html


def test_the_noise_of_the_device_is_told(pages: Path) -> None:
    assert re.search(r"noise floor \d\.\d\d%, from 10 processes", (pages / "report.md").read_text())


def test_only_some_cells(root: Path) -> None:
    with pytest.raises(UsageError, match="no row is of a cell like 'nothing'; as digits/"):
        publishing.write_report("digits", root, {}, only="nothing")
    assert "wide" not in publishing.tell("digits", root, {}, "*/small/*")


def test_rows_of_older_code_are_counted_and_left_out(tmp_path: Path) -> None:
    for key, minutes in (("11", 0), ("22", 1), ("33", 2)):
        store.write(tmp_path, made_row(cell=DENSE, sweep="digits", inputs_key=key * 32, minutes=minutes))
    told = "2 rows of older code, or replaced by newer or longer ones"
    assert f"not shown: {told}" in publishing.write_report("digits", tmp_path, {})
    page = (tmp_path / publishing.FOLDER / "digits" / "report.md").read_text()
    assert f"Not shown: {told}" in page


def test_observations_of_some_cells(root: Path) -> None:
    assert "undecided: " in publishing.observe("digits", "*/small/*", root)
    with pytest.raises(UsageError, match="no row is of a cell like"):
        publishing.observe("digits", "x*", root)


def test_a_sweep_without_rows(root: Path) -> None:
    with pytest.raises(UsageError, match=r"'cifar' has no results; .* those with results: digits, noise"):
        publishing.tell("cifar", root, {})


def test_advice_is_one_configuration_with_what_it_costs(root: Path) -> None:
    text = publishing.advise("digits", "x86", "", 0.01, root)
    assert "take  digits/small/dense/int8/dense/direct/scheduled/x86_avx" in text
    assert "invoke export digits/small/dense/int8" in text
    assert "weight@elbow/fp32/csr" in text.partition("faster, if its accuracy held")[2]
    # What loses too much is no runner-up, however fast.
    assert "channel@elbow_shrunk" not in text
    (took,) = re.findall(r"rows +([0-9a-f ]+)", text)
    rows = {row.id: row for row in store.read(root, "digits").rows}
    assert {rows[each].precision for each in took.split()} == {"int8"}


def test_advice_for_one_network_or_a_looser_bound(root: Path) -> None:
    assert "take  digits/wide/dense/int8" in publishing.advise("digits", "x86", "wide", 0.01, root)
    assert "channel@elbow_shrunk" in publishing.advise("digits", "x86", "", 0.2, root)


@pytest.mark.parametrize(
    ("target", "model", "told"),
    [
        ("hikey", "", "target hikey970_neon has times; there are rows of x86_avx"),
        ("x86", "huge", "small, wide"),
    ],
)
def test_advice_needs_rows(root: Path, target: str, model: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        publishing.advise("digits", target, model, 0.01, root)


def test_an_answer_rests_on_all_rows(root: Path, tmp_path: Path) -> None:
    path = store.write(tmp_path, made_row(sweep="digits"))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(StorageError, match="is damaged"):
        publishing.advise("digits", "x86", "", 0.01, tmp_path)


@pytest.mark.parametrize(
    ("action", "told"),
    [("mrge", "did you mean merge?"), ("merge", "--from one,two"), ("export", "--csv rows.csv")],
)
def test_verbs_of_results_say_what_they_need(root: Path, action: str, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        list(publishing.act(action, "", "", "", root))


MEASURE = """
<script>
const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1
  && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
const told = {wide: document.documentElement.scrollWidth - innerWidth};
Object.assign(told, {svgs: 0, texts: 0, outside: [], over: []});
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")];
  const boxes = texts.map(text => text.getBoundingClientRect());
  told.svgs += 1;
  told.texts += texts.length;
  boxes.forEach((box, i) => {
    if (!inside(box, frame)) told.outside.push(texts[i].textContent);
    boxes.slice(0, i).forEach((other, j) => {
      const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
      const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
      if (across > 1 && down > 4) told.over.push([texts[j].textContent, texts[i].textContent]);
    });
  });
}
const out = document.createElement("pre");
out.id = "told";
out.textContent = JSON.stringify(told);
document.body.append(out);
</script>
"""


@pytest.mark.browser
def test_a_browser_shows_all_of_it(pages: Path, tmp_path: Path) -> None:
    """The widths of letters are estimated when a figure is drawn; a browser knows them."""
    copy = tmp_path / "report.html"
    copy.write_text((pages / "report.html").read_text().replace("</body>", MEASURE + "</body>"))
    picture = tmp_path / "report.png"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,6000"]
    subprocess.run([*command, f"--screenshot={picture}", copy.as_uri()], capture_output=True, check=True)
    dom = subprocess.run([*command, "--dump-dom", copy.as_uri()], capture_output=True, text=True, check=True)
    (found,) = re.findall(r'<pre id="told">(.*?)</pre>', dom.stdout, re.DOTALL)
    told = json.loads(found.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert told["svgs"] >= 5
    assert told["texts"] > 100
    assert told["outside"] == []
    assert told["over"] == []
    assert told["wide"] <= 0
    with Image.open(picture) as shown:
        grey = shown.convert("L")
        dark = sum(grey.histogram()[:128]) / (grey.width * grey.height)
    assert 0.01 < dark < 0.3
