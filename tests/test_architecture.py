"""The picture in the documentation shows the imports as they are."""

import re
import xml.etree.ElementTree as ET

import pytest

from docs.draw_architecture import PICTURE, ROOT, file_of, imports, picture, reduced


def test_the_picture_is_current():
    message = "run python docs/draw_architecture.py"
    assert picture() == PICTURE.read_text(), message


def test_boxes_do_not_overlap_and_stand_on_the_page():
    root = ET.fromstring(PICTURE.read_text())
    width, height = float(root.get("width")), float(root.get("height"))
    boxes = [
        [float(rect.get(k)) for k in ("x", "y", "width", "height")]
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
        if rect.get("class") != "page"
    ]
    for i, (x, y, w, h) in enumerate(boxes):
        assert x >= 0
        assert x + w <= width
        assert y + h <= height
        for left, top, across, down in boxes[:i]:
            apart = x >= left + across or left >= x + w or y >= top + down or top >= y + h
            assert apart


@pytest.mark.parametrize("page", ["architecture.md", "errors.md", "matrices.md", "send.md"])
def test_files_that_are_named_exist(page):
    text = (ROOT / "docs" / page).read_text()
    places = [ROOT, ROOT / "specdens", ROOT / "send"]
    for name in re.findall(r"`([\w/]+/(?:[\w]+\.\w+)?)`", text):
        assert any((place / name).exists() for place in places), name


def test_arrows_that_follow_from_others_are_left_out():
    uses = {"top": {"middle", "ground"}, "middle": {"ground"}, "ground": set()}
    assert reduced(uses) == {"top": {"middle"}, "middle": {"ground"}, "ground": set()}


def test_where_an_import_leads():
    files = {"__init__": "", "scores.__init__": "", "scores.eigenscore": "", "cli": ""}
    expected = {
        "import send": "__init__",
        "from send import ees": "__init__",
        "from send import cli": "cli",
        "import send.scores": "scores.__init__",
        "from send.scores import eigenscore": "scores.eigenscore",
        "from send.scores.eigenscore import ees": "scores.eigenscore",
        "import sendmail": None,
    }
    for source, file in expected.items():
        (imported,) = imports(source)
        assert file_of(imported, "send", files) == file, source
