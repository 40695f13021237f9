"""Rows of JSON and CSV with the lines where they begin."""

import csv
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from send.data.lines import numbered_rows


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.just(None), st.text(min_size=1).filter(str.strip)), min_size=1),
    st.sampled_from(["json", "jsonl", "csv"]),
)
def test_what_is_read_is_what_was_written(tmp_path_factory, texts, kind):
    """Rows of JSON and CSV with their places, among them broken ones where there is a None."""
    path = tmp_path_factory.mktemp("rows") / f"t.{kind}"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(["text", "n"])
            out.writerows([text, 1] if text is not None else [1, 2, 3] for text in texts)
    else:
        rows = [
            json.dumps({"text": t}, ensure_ascii=False) if t is not None else "3" for t in texts
        ]
        text = "\n".join(rows) if kind == "jsonl" else "[\n" + ",\n".join(rows) + "\n]"
        path.write_bytes(text.encode())
    found = list(numbered_rows(path))
    assert [r["text"] if isinstance(r, dict) else None for _, r in found] == texts
    numbers = [int(place.split(":")[1]) for place, _ in found]
    assert numbers == sorted(set(numbers))
    if kind != "csv":
        assert numbers == list(range(1 + (kind == "json"), len(texts) + 1 + (kind == "json")))
