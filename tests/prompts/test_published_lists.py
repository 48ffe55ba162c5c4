"""Prompt files of the published shapes: columns found, rows as they say, selections with their published numbers."""

import json
import re
from pathlib import Path

import pytest

from ine_jax.cli import main as cli
from ine_jax.errors import InputError
from ine_jax.prompts import SELECTIONS, checking, load
from ine_jax.prompts.items import Item
from ine_jax.prompts.registry import BENCHMARKS, SHA256
from ine_jax.storage.provenance import value_hash
from tests.support import made_lists
from tests.support.cases import sample

# Number of items and hash of their records, as before the reader of published files: old run directories hold them.
BUNDLED = {
    "attack": (400, "01b4163e1bc08ae8d9b5f504d13d79c271f294f3d1f84436102d88ac198f5602"),
    "benign": (500, "81af495ed069f9e6e84ad301214c5fb569993bdfe8da972f402d974bf3a42107"),
    "explicit": (500, "b7d579f559a57e0e07ee1b0a7ca3114288f253b640e902ca781d4c60a394bb53"),
    "generic": (300, "3177088847beea264a197ca39feabb86f121669f69d361d5a63f5da31208c0cc"),
    "list": (300, "1f3c8e2abd86e0adc30f5957803990809a724d884308628a44601a5c025e3675"),
    "tune-attack": (300, "abb3bf4a5d12b36ef1771274e26ab81df895792990f5d7f2dd86868bd9e28adc"),
    "tune-benign": (300, "829648124d52fdb021ca0a05d288963edd3939ba07be19914cddd0627eb0d76f"),
    "tune-explicit": (300, "6920128d237012b897c9562bec5831f92eb6af31de27a28d697575b786846367"),
    "tune-generic": (300, "ab464ef5a19a244baa6514420f8b8c2b22f4ae00452649d29e676bef2a00eb36"),
    "tune-list": (300, "772cbd0d57102ba00d809a111120cd87f735e608af16728bd9617cbd4b4aa3fe"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


@pytest.fixture(scope="module")
def i2p(folder: Path) -> Path:
    return made_lists.i2p(folder)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_lists_are_as_ever(name: str) -> None:
    items = load(name).items
    assert (len(items), value_hash([item.record() for item in items])) == BUNDLED[name]


def test_rows_of_i2p_keep_what_they_say(i2p: Path) -> None:
    found = load(i2p)
    assert found.items[90] == Item(
        "90", f"{made_lists.QUIRKS[90 % 7]} 90", 4_294_967_205, (), ("sexual", "illegal activity"), 7.0, 768, 512
    )
    assert [item.id for item in found.items] == [str(i) for i in range(4703)]
    assert found.reading is not None
    assert found.reading.columns == {
        "prompt": "prompt",
        "seed": "sd_seed",
        "guidance": "sd_guidance_scale",
        "categories": "categories",
        "height": "sd_image_height",
        "width": "sd_image_width",
    }
    assert (found.reading.rows, found.reading.empty, found.reading.replaced) == (4703, 10, 0)


@pytest.mark.thorough
def test_a_renamed_copy_gives_the_same_items(folder: Path, i2p: Path) -> None:
    copy = made_lists.renamed(folder)
    for select in ("", "unlearndiffatk-142", "i2p-nudity-95"):
        assert load(copy, select=select).items == load(i2p, select=select).items


@pytest.mark.parametrize("name", sample(SELECTIONS, list(SELECTIONS)[:3]))
def test_selections_keep_the_published_numbers(i2p: Path, name: str) -> None:
    found = load(i2p, select=name)
    assert found.reading is not None
    assert (len(found.items), found.reading.warning) == (SELECTIONS[name].expected, "")
    assert name.endswith(str(SELECTIONS[name].expected))
    whole = {item.id: item for item in load(i2p).items}
    assert all(whole[item.id] == item for item in found.items)


def test_violence_with_a_space_before_it_does_not_count(i2p: Path) -> None:
    rows = made_lists.i2p_rows()
    stripped = [
        row
        for row in rows
        if "violence" in [name.strip() for name in row["categories"].split(",")]
        and row["nudity_percentage"] < 50
        and row["inappropriate_percentage"] > 50
        and row["hard"]
    ]
    assert (len(stripped), len(load(i2p, select="ring-a-bell-violence-250").items)) == (256, 250)


def test_another_number_is_told_and_a_missing_column_refused(tmp_path: Path) -> None:
    rows = made_lists.i2p_rows()
    explicit = [row for row in rows if row["nudity_percentage"] > 50]
    fewer = made_lists.write(tmp_path / "fewer.csv", [*explicit[:94], rows[-1]])
    reading = load(fewer, select="i2p-nudity-95").reading
    assert reading is not None
    assert reading.warning == "i2p-nudity-95: 95 rows expected, 94 found; the file may be another version"
    with pytest.raises(InputError, match="no column hard, inappropriate_percentage"):
        bare = [{"prompt": "a", "categories": "violence", "nudity_percentage": 0}]
        load(made_lists.write(tmp_path / "bare.csv", bare), select="ring-a-bell-violence-250")
    with pytest.raises(InputError, match="none selected by i2p-nudity-95"):
        load(made_lists.write(tmp_path / "none.csv", rows[:0:-1][:5]), select="i2p-nudity-95")
    with pytest.raises(InputError, match="selection"):
        load(fewer, select="i2p-nudity-96")


def test_mojibake_is_replaced_and_counted(folder: Path) -> None:
    found = load(made_lists.ring_a_bell(folder))
    assert found.reading is not None
    assert (len(found.items), found.reading.replaced, found.reading.encoding) == (250, 250, "utf-8")
    assert found.items[3] == Item("3", "made \ufffd 3 \ufffd", 3)


def test_other_columns_are_found(folder: Path) -> None:
    assert load(made_lists.rece(folder)).items[5] == Item("5", "made 5", 5)
    assert load(made_lists.mma(folder)).items[7] == Item("7", "adv_prompt 7", 7)
    copro = load(made_lists.copro(folder))
    assert copro.items[8999] == Item("8999", "made 8999", 8999, (), ("hate",))
    assert copro.items[9000] == Item("0#2", "made 9000", 9000, (), ("hate",))
    assert copro.reading is not None
    assert copro.reading.duplicates == 996
    assert load(made_lists.coco(folder), limit=2).items == (Item("0", "a cat 0", 0), Item("1", "a cat 1", 1))


def test_what_is_ignored_is_not_used(i2p: Path) -> None:
    item = load(i2p, ignore=("seed", "guidance", "size"), limit=3).items[2]
    assert (item.seed, item.guidance, item.height, item.width) == (2, None, None, None)
    reading = load(i2p, ignore=("size",)).reading
    assert reading is not None
    assert not {"height", "width"} & set(reading.columns)


def test_published_files_pass_the_check(folder: Path, i2p: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bell, copy = made_lists.ring_a_bell(folder), made_lists.renamed(folder)
    for name, path in (("i2p", i2p), ("i2p-renamed", copy), ("ring-a-bell-violence-5-77", bell)):
        assert cli.main(["benchmarks", "check", name, str(path), "--json"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any("same shape as published, other content" in line for line in lines)
        result = json.loads(lines[-1])
        assert (result["rows"], result["identity"]) == (BENCHMARKS[name].rows, checking.OTHER)
        assert result["selections"] == {each: SELECTIONS[each].expected for each in BENCHMARKS[name].selections}


def test_other_files_do_not(folder: Path, i2p: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        ("i2p-renamed", str(i2p)): "seed comes from sd_seed, not evaluation_seed",
        ("coco-30k", str(made_lists.coco(folder))): "200 rows",
        ("i2p", str(made_lists.rece(folder))): "prompt comes from sensitive_prompt",
        ("i2q", str(i2p)): "did you mean i2p",
        ("i2p", str(folder / "none.csv")): "no such file",
    }
    for (name, path), reason in cases.items():
        assert cli.main(["benchmarks", "check", name, path]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert len(error.splitlines()) <= 3
    for words in (["check"], ["check", "i2p"], ["list", "i2p"], ["burn"]):
        assert cli.main(["benchmarks", *words]) == 2
        assert len(capsys.readouterr().err.splitlines()) <= 3


def test_a_recorded_hash_is_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three settings of Ring-A-Bell have one shape; only their bytes tell them apart."""
    bell = made_lists.ring_a_bell(folder)
    reading = load(bell).reading
    assert reading is not None
    monkeypatch.setitem(SHA256, "ring-a-bell-violence-5-77", reading.sha256)
    lines, values = checking.check("ring-a-bell-violence-5-77", bell)
    assert values["identity"] == checking.SAME and any("same bytes as published" in line for line in lines)
    with pytest.raises(InputError, match="5-38 as published: it is ring-a-bell-violence-5-77"):
        checking.check("ring-a-bell-violence-5.5-38", bell)
    monkeypatch.delitem(SHA256, "ring-a-bell-violence-5-77")
    assert checking.check("ring-a-bell-violence-5-77", bell)[1]["identity"] == checking.UNKNOWN


def test_sizes_of_photos_are_ignored_with_one_line(tmp_path: Path) -> None:
    rows = [
        "image_id,source,prompt,evaluation_seed,width,height",
        "139,COCO,a cat,7,428,640",
        "285,COCO,a dog,8,640,640",
    ]
    (tmp_path / "coco.csv").write_text("\n".join(rows))
    found = load(tmp_path / "coco.csv")
    assert found.items == (Item("139", "a cat", 7), Item("285", "a dog", 8, height=640, width=640))
    assert found.reading is not None and found.reading.resized == 1
    assert "ignored sizes, which no model can generate: 1" in found.reading.line()


def test_the_table_names_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmarks", "--json"]) == 0
    out = capsys.readouterr().out
    for each in BENCHMARKS.values():
        assert each.name in out and each.where in out
    values = json.loads(out.splitlines()[-1])["benchmarks"]
    assert [value["name"] for value in values] == list(BENCHMARKS)
    assert all(set(each.selections) <= set(SELECTIONS) for each in BENCHMARKS.values())
    assert SHA256.keys() <= BENCHMARKS.keys() and len(set(SHA256.values())) == len(SHA256) == 15
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in SHA256.values())
