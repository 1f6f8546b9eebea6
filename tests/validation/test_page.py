"""Reports as files: JSON keeps its schema; the page, opened in a browser, shows the run, and its filter works."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from mlsysim.calibration.store import tables
from mlsysim.validation.anchors.comparison import compare
from mlsysim.validation.anchors.loading import anchor_files, load
from mlsysim.validation.report import coefficients, export, html, summary
from mlsysim.validation.report.findings import Findings

FAMILIES = ("cnn", "paper", "queueing", "sustainability")
MOST_BYTES, MOST_BYTES_OF_JSON = 3_000_000, 5_000_000
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WAIT_S = 30


@pytest.fixture(scope="module")
def findings() -> Findings:
    """A run of a few sources, of which one prediction has moved."""
    files = [path for path in anchor_files(ROOT / "anchors") if path.parent.name in FAMILIES]
    rows = [compare(anchor).as_row() for path in files for anchor in load(path)]
    moved = next(row for row in rows if row["family"] == "cnn" and row["role"] == "validation")
    moved["estimates"] = {"theirs": {"predicted": 1.0, "error": -0.5, "reason": ""}}
    moves = [{"id": moved["id"], "file": moved["file"], "before": moved["predicted"] * 1.1, "after": moved["predicted"]}]
    return Findings(rows, moves=moves, verdict=summary.last_line(rows))


@pytest.fixture(scope="module")
def page(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that run."""
    pytest.importorskip("vl_convert", reason="the page needs vl-convert-python: pip install 'mlsysim-anchors[plot]'")
    path = tmp_path_factory.mktemp("page") / "report.html"
    export.write(path, findings)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="looking at the page needs selenium: pip install selenium")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("looking at the page needs chromium and chromedriver (of Debian: chromium, chromium-driver)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = programs[0]
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
        yield driver
        driver.quit()


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    """The page, drawn."""
    browser.get(page.as_uri())
    until(lambda: browser.execute_script("return document.body.dataset.drawn"))
    return browser


def until(holds: Callable[[], object]) -> None:
    """Waits."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)


def text_of(browser: Any, place: str) -> str:
    return browser.execute_script(f"return document.querySelector('{place}').innerText")


def count_of(browser: Any, places: str) -> int:
    return browser.execute_script(f"return document.querySelectorAll('{places}').length")


def test_a_page_stands_alone_and_is_small(page: Path, findings: Findings) -> None:
    text = page.read_text("utf-8")
    head = text.partition('<script id="report"')[0]
    assert "http" not in head
    assert "src=" not in head
    empty = len(html.render(Findings()).encode())
    a_case = (page.stat().st_size - empty) / len(findings.rows)
    cases = sum(len(load(path)) for path in anchor_files(ROOT / "anchors"))
    assert empty + cases * a_case < MOST_BYTES  # texts that cases share stand once: more cases take less each


def test_the_page_shows_the_run(opened: Any, findings: Findings) -> None:
    assert text_of(opened, "#verdict") == findings.verdict
    assert "1: ResNet-50 DGX A100" in text_of(opened, "#paper")
    assert text_of(opened, "#moved .said").startswith("1 prediction moved: ")
    assert "covered miss" in text_of(opened, "#misses .said")
    assert count_of(opened, "#coefficients tbody tr") == len({name for row in findings.rows for name in row["coefficients"]})
    with_error = sum(row["error"] is not None for row in findings.rows)
    assert count_of(opened, "#overview svg .mark-symbol path") == with_error
    assert count_of(opened, "#parity svg .mark-symbol path") == count_of(opened, "#error svg .mark-symbol path") > 0


def test_it_complains_of_nothing(opened: Any) -> None:
    assert [entry["message"] for entry in opened.get_log("browser")] == []


def test_the_filter_leaves_what_was_asked_for(opened: Any, findings: Findings) -> None:
    rows = functools.partial(count_of, opened, "#table tbody tr")
    before = rows()
    opened.find_element("id", "text").send_keys("A30")
    wanted = [row["id"] for row in findings.rows if "a30" in "".join(map(str, row.values())).lower()]
    until(lambda: rows() < before)
    assert 0 < rows() <= len(wanted) < before
    assert text_of(opened, "#count").endswith(f"of {len(findings.rows):,} cases")
    until(lambda: count_of(opened, "#overview svg .mark-symbol path") == rows())
    opened.find_element("css selector", "#filters button[type=reset]").click()
    until(lambda: rows() == before)


def test_the_worst_comes_first_and_the_head_turns_the_order(opened: Any, findings: Findings) -> None:
    first = functools.partial(text_of, opened, "#table tbody tr td.case a, #table tbody tr td.case span")
    errors = {row["id"]: abs(row["error"]) for row in findings.rows if row["error"] is not None}
    assert errors[first()] == max(errors.values())
    opened.find_element("css selector", "#table th[data-by=error] button").click()
    assert errors.get(first(), 0.0) <= min(errors.values())


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(opened: Any, width: int) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    )
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width


def test_it_is_dark_in_the_dark(opened: Any) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = opened.execute_script(ground)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    assert opened.execute_script(ground) != light
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert opened.execute_script(ground) == light
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_the_report_in_json_is_small(findings: Findings) -> None:
    a_case = len(export.as_json(Findings(findings.rows))) / len(findings.rows)
    assert a_case * sum(len(load(path)) for path in anchor_files(ROOT / "anchors")) < MOST_BYTES_OF_JSON


def test_the_report_in_json_keeps_its_schema(findings: Findings) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="the schema of reports is checked with jsonschema")
    schema = json.loads((Path(export.__file__).parent / export.SCHEMA_FILE).read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == export.SCHEMA
    document = json.loads(export.as_json(findings))
    jsonschema.validate(document, schema)
    assert (document["judgement"]["moved"], document["estimators"][0]["cases"]) == (1, 1)
    del document["cases"][0]["predicted"]
    with pytest.raises(jsonschema.ValidationError, match="predicted"):
        jsonschema.validate(document, schema)


def test_a_coefficient_is_found_with_its_source() -> None:
    names = ["client.inferencemax.request_s", "gemm.shared.overlap", "engine.no-such.layer_s"]
    engine, client, shared = sorted(coefficients.origins([{"coefficients": names}]), key=lambda one: one.file)
    assert (engine.value, engine.file, engine.source) == (None, "", "")
    assert (client.file, shared.file) == ("harnesses.toml", "shared_kernels.toml")
    assert client.source
    assert shared.value == pytest.approx(tables("shared_kernels.toml")["gemm"]["overlap"]["value"])
