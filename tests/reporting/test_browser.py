"""The page in headless Chromium: hostile texts do nothing, images and filters work without a script."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ine_jax import reporting
from ine_jax.evaluation import Cell, Item, Plan, evaluate, score
from scripts.browser import Browser, browser, find
from tests.support import fakes
from tests.support.payloads import payloads
from tests.support.samples import summary as sample

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium")
TEXTS = [text.encode("utf-8", "replace").decode() for text in payloads()]
BLUR = "getComputedStyle(document.querySelectorAll('.pic img')[{}]).filter"
VISIBLE = "[...document.querySelectorAll('{}')].filter(e => e.checkVisibility()).length"


@pytest.fixture(scope="module")
def shown() -> Iterator[Browser]:
    with browser() as found:
        found.view(1280, 900)
        yield found


@pytest.fixture(scope="module")
def still() -> Iterator[Browser]:
    """A browser in which pages run no script."""
    with browser(script=False) as found:
        found.view(1280, 900)
        yield found


def run_of(root: Path, texts: list[str], words: bool = True) -> Path:
    items = tuple(Item(f"{i}{text}", text, i, ("cat",) if i % 2 else ("knife",)) for i, text in enumerate(texts))
    counts = (("attack", len(items)),)
    cells = (Cell("fake", counts, fakes.PLAIN), Cell("fake", counts, fakes.GUIDED, fakes.WORDS))[: 1 + words]
    run = evaluate(
        Plan(cells, {"attack": items}, steps=2, block=50), root, generate=fakes.generate, hashes=fakes.hashes
    )
    score(run, [fakes.Corner()])
    return root


def nothing_happened(page: Browser, path: Path) -> None:
    events = [(event["method"], event["params"]) for event in page.events if "method" in event]
    urls = {params["request"]["url"] for method, params in events if method == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:image/")} == {path.resolve().as_uri()}
    assert not [params for method, params in events if method == "Page.javascriptDialogOpening"]
    assert not [params for method, params in events if method in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert page.run("document.documentElement.dataset.harmed") is None
    assert page.run("document.querySelectorAll('script').length") == 1
    assert page.run("document.documentElement.classList.contains('scripted')") is True  # our own did run


@pytest.mark.thorough
def test_hostile_prompts_do_nothing(tmp_path: Path, shown: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["ine_jax.reporting.sheets"].SHOWN, "attack", len(TEXTS))
    page = reporting.build([run_of(tmp_path, TEXTS, words=False)])
    shown.open(page)
    assert shown.run("document.querySelectorAll('.item').length") == len(TEXTS)
    shown.run("[...document.querySelectorAll('.pic')].slice(0, 5).forEach(label => label.click())")
    nothing_happened(shown, page)


def test_hostile_names_do_nothing(tmp_path: Path, shown: Browser) -> None:
    for i in range(0, len(TEXTS), 50):
        whole = sample()
        for text, cell in zip(TEXTS[i : i + 50], [c for c in whole["cells"] for _ in range(3)], strict=False):
            cell |= {"guard": text, "negative_name": text, "words": [text]}
            cell["i2p"]["categories"][text] = cell["i2p"]["categories"]["violence"]
        page = tmp_path / f"{i}.html"
        page.write_text(reporting.page(whole))
        shown.open(page)
        nothing_happened(shown, page)


def test_images_and_filters_need_no_script(tmp_path: Path, still: Browser) -> None:
    still.open(reporting.build([run_of(tmp_path, [f"prompt {i}" for i in range(4)])]))
    assert still.run("document.documentElement.classList.contains('scripted')") is False
    assert "blur" in still.run(BLUR.format(0))
    still.click(".pic")
    assert [still.run(BLUR.format(i)) == "none" for i in range(2)] == [True, False]
    still.click(".toggle")
    assert still.run(BLUR.format(1)) == "none"
    assert still.run(VISIBLE.format(".shot")) == 8
    still.click(".filters summary")
    still.click("label:has(#n1)")  # explicit words
    assert still.run(VISIBLE.format(".shot")) == 4
    assert still.run(VISIBLE.format(".results tbody tr")) == 1
    assert still.run(VISIBLE.format(".on")) == 1
    still.click("label:has(#o1)")  # failures: seeds that show the knife in spite of the words
    assert still.run(VISIBLE.format(".item")) == still.run(VISIBLE.format(".shot")) == 1
    still.click(".filters button")
    assert still.run(VISIBLE.format(".shot")) == 8


def test_a_held_key_shows_the_images(tmp_path: Path, shown: Browser) -> None:
    shown.open(reporting.build([run_of(tmp_path, ["a", "b"])]))
    shown.key("keyDown", "r")
    assert shown.run(BLUR.format(3)) == "none"
    shown.key("keyUp", "r")
    assert "blur" in shown.run(BLUR.format(3))


ROWS = "[...document.querySelectorAll('.index tbody tr')].map(row => row.cells[{}].textContent)"
SET = "(field => {{ field.value = '{}'; field.dispatchEvent(new Event('input')); }})(document.getElementById('{}'))"


def test_all_items_can_be_searched_filtered_sorted_and_paged(tmp_path: Path, shown: Browser) -> None:
    shown.open(reporting.build([run_of(tmp_path, [f"prompt {i}" for i in range(120)])]))
    place = "document.getElementById('place').textContent"
    assert shown.run(place) == "1 to 50 of 120"
    assert shown.run("document.querySelectorAll('.index a').length") == 8  # those with images
    shown.click("#next")
    shown.click("#next")
    assert shown.run(place) == "101 to 120 of 120" and shown.run("document.getElementById('next').disabled")
    shown.run(SET.format("Prompt 11", "search"))
    assert shown.run(ROWS.format(3)) == ["prompt 11", *(f"prompt {i}" for i in range(110, 120))]
    shown.run(SET.format("f", "outcome"))
    failures = shown.run(ROWS.format(3))
    assert failures == [f"prompt {i}" for i in range(110, 120, 2)]  # fakes show the knife for even seeds
    shown.run("document.querySelectorAll('.index button')[3].click()")
    shown.run("document.querySelectorAll('.index button')[3].click()")
    assert shown.run(ROWS.format(3)) == failures[::-1]
    shown.run(SET.format("0 1", "cell"))  # explicit words
    assert shown.run(ROWS.format(3)) == [f"prompt {i}" for i in (116, 112)]
    assert shown.run(ROWS.format(2)) == ["2 of 2", "2 of 2"]
    shown.run(SET.format("nothing like this", "search"))
    assert shown.run(place) == "no item"


def test_a_printed_page_holds_every_number(tmp_path: Path, shown: Browser) -> None:
    page = tmp_path / "page.html"
    page.write_text(reporting.page(sample()))
    shown.view(1040, 720)  # A4 across, without its margins
    shown.call("Emulation.setEmulatedMedia", media="print")
    shown.open(page)
    beyond = "[...document.querySelectorAll('td, th')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert shown.run("document.querySelectorAll('td').length") > 100
    assert shown.run(f"{beyond}.map(e => e.textContent)") == []
    assert shown.run("[...document.querySelectorAll('#paired td')].every(e => e.checkVisibility())") is True
    shown.call("Emulation.setEmulatedMedia", media="")
    shown.view(1280, 900)


@pytest.mark.thorough
def test_first_columns_stay_in_view_on_a_phone(tmp_path: Path, shown: Browser) -> None:
    page = tmp_path / "page.html"
    page.write_text(reporting.page(sample()))
    shown.view(390, 844)
    shown.open(page)
    for table in (".headline", ".results", "#categories table"):
        moved = (
            f"(table => {{ table.parentNode.scrollLeft = 90; const cell = table.querySelector('tbody tr').cells[0];"
            f" return cell.getBoundingClientRect().left - table.parentNode.getBoundingClientRect().left; }})"
            f"(document.querySelector('{table}'))"
        )
        assert abs(shown.run(moved)) < 1, table
    shown.view(1280, 900)


def test_images_in_a_folder_beside_the_page(tmp_path: Path, shown: Browser) -> None:
    root = run_of(tmp_path, ["a", "b", "c"])  # of the third the two cells differ
    page = reporting.build([root], limit=100)
    names = sorted(path.name for path in (tmp_path / "report-images").iterdir())
    assert len(names) == 4
    assert "data:image" not in page.read_text()
    shown.open(page)
    shown.run("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
    shown.run("Promise.all([...document.images].map(image => image.decode()))")
    assert shown.run("[...document.images].every(image => image.naturalWidth === 8)")
    assert reporting.build([root], limit=100).read_bytes() == page.read_bytes()
    reporting.build([root])
    assert not (tmp_path / "report-images").exists()  # what an earlier page left


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_the_paper(tmp_path: Path, shown: Browser, dark: bool) -> None:
    shown.view(1280, 900, dark=dark)
    shown.open(reporting.build([run_of(tmp_path, ["a", "b"])]))
    names = ("--ink", "--soft", "--bad", "--good", "--implicit", "--paper", "--panel")
    style = "getComputedStyle(document.documentElement).getPropertyValue('{}')"
    colours = {name: luminance(shown.run(style.format(name)).strip()) for name in names}
    shown.view(1280, 900)
    assert (colours["--paper"] < 0.1) is dark
    for ground in ("--paper", "--panel"):
        for name in names[:5]:
            low, high = sorted((colours[name], colours[ground]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)  # WCAG 2.2, AA


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` as WCAG defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_a_narrow_window_scrolls_only_tables(tmp_path: Path, shown: Browser) -> None:
    page = tmp_path / "page.html"
    page.write_text(reporting.page(sample("a-rather-long-name-of-something-without-blanks")))
    for width in (360, 700):
        shown.view(width, 800)
        shown.open(page)
        assert shown.run("document.documentElement.scrollWidth") <= width
    shown.view(1280, 900)
