"""Files that others hold: CSV in its layouts, rows without a latency, provenance; small extracts are in tests/data."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures, spaces

from esm_onnx.architectures import Architecture, Options, Space, find_space, read_space, to_genome, to_json
from esm_onnx.errors import InputError
from esm_onnx.measurement.exchange import NoLatency, exported_lines, import_file, provenances
from esm_onnx.measurement.importers import Reading, Row, find_format, read_table
from esm_onnx.measurement.store import Store

HERE = Path(__file__).parents[1] / "data"
PUBLIC = Path(__file__).parents[3] / "shared/data"
OFA = find_space("ofa-mobilenetv3")
FBNET = read_space(HERE / "fbnet.toml")

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        path = tmp_path / "t.csv"
        path.write_text(text)
        return path

    return written


def test_once_for_alls_columns() -> None:
    rows = list(read_table(HERE / "ofa_176.csv", OFA, Reading(latency="tesla_p40_ms")))
    first = rows[0]  # 75553535353575533735,63633366663644466644,44442,176,34.926996,18.727756,50.829601
    kernels = [[7, 5, 5, 5], [3, 5, 3, 5], [3, 5, 3, 5], [7, 5, 5, 3], [3, 7]]
    expansions = [[6, 3, 6, 3], [3, 3, 6, 6], [6, 6, 3, 6], [4, 4, 4, 6], [6, 6]]
    assert [[block["kernel"] for block in unit] for unit in first.architecture.units] == kernels
    assert [[block["expansion"] for block in unit] for unit in first.architecture.units] == expansions
    assert first.architecture.network == Options({"resolution": 176})
    assert (first.latency_ms, first.line, first.target, first.how) == (50.829601, 2, "tesla_p40", "measured")
    assert [row.line for row in rows] == list(range(2, 22))


def test_a_digit_for_each_place() -> None:
    """HELP's op_names.json: 7 is k5_e6, 8 skip, 1 k3_e1_g2, 4 k5_e1."""
    rows = list(read_table(HERE / "fbnet.csv", FBNET, Reading(latency="raspi4_ms")))
    operations = [unit[0]["op"] for unit in rows[0].architecture.units]  # 7818488874147327324245
    assert operations[:5] == ["k5_e6", "skip", "k3_e1_g2", "skip", "k5_e1"]
    assert "".join(map(str, to_genome(FBNET, rows[0].architecture))) == "7818488874147327324245"
    assert (len(rows), rows[0].latency_ms, rows[0].target) == (6, 30.25286, "raspi4")


def plain_table(space: Space, drawn: list[Architecture], called: dict[str, str] | None = None) -> list[list[str]]:
    """A header and rows of options, written from the architecture and not from its genome."""
    header = [feature.name for feature in space.network]
    for u, depths in enumerate(space.depths, 1):
        header += [f"u{u}b{j}.{f.name}" for j in range(1, max(depths) + 1) for f in space.features]
    rows = []
    for architecture in drawn:
        cells = {name: str(option) for name, option in architecture.network.items()}
        for u, unit in enumerate(architecture.units, 1):
            for j, block in enumerate(unit, 1):
                cells |= {f"u{u}b{j}.{name}": str(option) for name, option in block.items()}
        rows.append([cells.get(name, "") for name in header])
    return [[(called or {}).get(name, name) for name in header], *rows]


@given(st.data(), spaces())
def test_a_column_for_each_place(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, space: Space) -> None:
    drawn = data.draw(st.lists(architectures(space), min_size=1, max_size=4))
    latencies = data.draw(st.lists(st.floats(1e-3, 1e3), min_size=len(drawn), max_size=len(drawn)))
    header, *_ = plain_table(space, drawn)
    called = data.draw(st.dictionaries(st.sampled_from(header), st.just(None)))
    names = {name: f"theirs {i}" for i, name in enumerate(called)}
    path = tmp_path_factory.getbasetemp() / "plain.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = plain_table(space, drawn, names)
        marks = ["row", *range(len(drawn))]
        latency = ["time", *map(repr, latencies)]
        csv.writer(file).writerows([mark, *row, ms] for mark, row, ms in zip(marks, rows, latency, strict=True))
    read = list(read_table(path, space, Reading(latency="time", columns=names)))
    assert [(row.architecture, row.latency_ms) for row in read] == list(zip(drawn, latencies, strict=True))


TWO = "u1b1.kernel,u1b1.expansion,u1b2.kernel,u1b2.expansion,u2b1.kernel,u2b1.expansion"
REST = "".join(
    f",u{u}b{j}.{name}" for u, j in ((1, 3), (1, 4), (2, 2), (2, 3), (2, 4)) for name in ("kernel", "expansion")
)
HEADER = f"{TWO}{REST},latency_ms"
GOOD = f"3,1/2,,,5,1{',' * 10},2.5"


def test_the_plain_layout_by_hand(tiny: Space, write: Write) -> None:
    (row,) = read_table(write(f"{HEADER}\n{GOOD}\n"), tiny)
    half = to_json(tiny, row.architecture)["units"]
    assert half == [[{"kernel": 3, "expansion": "1/2"}], [{"kernel": 5, "expansion": 1}]]
    assert row == Row(row.architecture, 2.5, row.file, 2)


OFA_LINE = "7" * 20 + "," + "6" * 20 + ",44444,176,3.5"
BAD_FILES = {
    "empty": (OFA, "", "t.csv: no row, expected the names of the columns"),
    "header twice": (OFA, "ks,e,d,r,r,ms\n", "t.csv:1: column 'r' is there twice"),
    "no layout": (OFA, "kernels,e,d,r,ms\n", r"t.csv: the columns kernels, e, d, r, ms hold no .*--column ks=NAME"),
    "a place is missing": (FBNET, "u1b1.op,ms\n", r"hold no architecture of space 'fbnet', expected .*; or ops"),
    "no latency": (OFA, "ks,e,d,r\n", "0 columns may be the latency, expected one: .*none beside"),
    "several": (
        OFA,
        "ks,e,d,r,a_ms,b_ms\n",
        "2 columns may be the latency, expected one: .*--latency; there are a_ms, b",
    ),
    "short row": (OFA, f"ks,e,d,r,ms\n{OFA_LINE}\n1,2,3\n", r"t.csv:3: not 5 cells"),
    "long row": (OFA, f"ks,e,d,r,ms\n{OFA_LINE},1\n", r"t.csv:2: not 5 cells"),
    "open quote": (OFA, f'ks,e,d,r,ms\n{OFA_LINE}\n"7', r"t.csv:3: not CSV"),
    "no digits": (OFA, f"ks,e,d,r,ms\n{OFA_LINE.replace('7', 'x', 1)}\n", r"t.csv:2: ks is 'x777.*expected digits"),
    "unknown kernel": (
        OFA,
        f"ks,e,d,r,ms\n{OFA_LINE.replace('7', '9', 1)}\n",
        r"t.csv:2: unit 1, block 1: kernel is 9",
    ),
    "unknown side": (OFA, f"ks,e,d,r,ms\n{OFA_LINE.replace('176', '177')}\n", r"t.csv:2: .*resolution is 177"),
    "no number": (OFA, f"ks,e,d,r,ms\n{OFA_LINE}fast\n", r"t.csv:2: ms is '3.5fast', expected a number of ms"),
    "digits too few": (FBNET, "ops,ms\n123,1\n", r"t.csv:2: a genome of 3 integers, expected 22"),
    "digit too great": (FBNET, f"ops,ms\n{'9' * 22},1\n", r"t.csv:2: genome, u1b1.op: index 9, expected 0 to 8"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_and_nothing_is_imported(case: str, write: Write, store: Store) -> None:
    space, text, message = BAD_FILES[case]
    with pytest.raises(InputError, match=message):
        import_file(store, write(text), space, target="x")
    assert store.contents() == []


BAD_PLACES = {
    "a gap": (GOOD.replace("3,1/2,", ",,3", 1).replace("3,,5", "3,1,5"), "unit 1, block 1 is empty and a later one"),
    "half a block": (GOOD.replace("1/2", ""), "unit 1, block 1: no 'expansion'"),
    "no option": (GOOD.replace("1/2", "0.7"), "unit 1, block 1: expansion is 0.7, expected one of 1/2, 1"),
    "a name": (GOOD.replace("3", "three", 1), "unit 1, block 1: kernel is 'three'"),
    "not a number": (GOOD.replace("3", "nan", 1), "unit 1, block 1: kernel is nan"),
}


@pytest.mark.parametrize("case", BAD_PLACES)
def test_bad_options_are_named(case: str, tiny: Space, write: Write) -> None:
    line, message = BAD_PLACES[case]
    with pytest.raises(InputError, match=rf"t.csv:3: {message}"):
        list(read_table(write(f"{HEADER}\n{GOOD}\n{line}\n"), tiny))


def test_numbers_may_be_spelled_as_in_json(tiny: Space, write: Write) -> None:
    (row,) = read_table(write(f"{HEADER}\n{GOOD.replace('1/2', ' 0.5').replace('3', '3.0', 1)}\n"), tiny)
    assert row.architecture.units[0][0] == Options({"kernel": 3, "expansion": 0.5})


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (Reading(format="xml"), "no format 'xml', expected one of jsonl, csv, ofa-lut"),
        (Reading(format="jsonl", latency="a"), "--latency means nothing for format 'jsonl', expected csv"),
        (Reading(architectures="a.jsonl"), "--architectures means nothing for format 'csv', expected ofa-lut"),
        (Reading(columns={"u9b1.kernel": "k"}), "unknown column 'u9b1.kernel', expected one of u1b1.kernel"),
        (Reading(latency="abacus_ms"), "no column 'abacus_ms' of latencies; there are latency_ms"),
    ],
    ids=str,
)
def test_a_reading_that_does_not_fit_is_refused(tiny: Space, write: Write, reading: Reading, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(read_table(write(f"{HEADER}\n{GOOD}\n"), tiny, reading))


def test_the_format_is_told_by_suffix_and_columns(tmp_path: Path) -> None:
    lut, plain = (HERE / "ofa_lut_176.csv").read_bytes(), (HERE / "ofa_176.csv").read_bytes()
    for name, content in (("a.csv", plain), ("b.csv.gz", gzip.compress(plain)), ("c.csv", lut), ("d.txt", plain)):
        (tmp_path / name).write_bytes(content)
    names = ("a.csv", "b.csv.gz", "c.csv", "d.txt", "t.yaml", "t.yml", "", "-", "m.jsonl", "absent")
    found = {name: find_format(tmp_path / name if name != "-" else name).name for name in names}
    assert found == {
        **dict.fromkeys(("a.csv", "b.csv.gz"), "csv"),
        **dict.fromkeys(("c.csv", "t.yaml", "t.yml", ""), "ofa-lut"),
        **dict.fromkeys(("d.txt", "-", "m.jsonl", "absent"), "jsonl"),
    }
    assert len(list(read_table(tmp_path / "d.txt", OFA, Reading(format="csv", latency="tesla_p40_ms")))) == 20
    assert len(list(read_table(tmp_path / "b.csv.gz", OFA, Reading(latency="tesla_p40_ms")))) == 20


NONE = ["nan", "NaN", "", "N/A", "0", "0.0", "-1", "-inf", "inf", "1e300", "none"]


@pytest.mark.parametrize("cell", NONE)
def test_a_row_without_a_latency_is_refused_or_left_out(cell: str, write: Write, store: Store) -> None:
    other = OFA_LINE.replace("7", "5", 1)
    path = write(f"ks,e,d,r,ms\n{OFA_LINE}\n{OFA_LINE.replace('3.5', cell)}\n\n{other}\n")
    with pytest.raises(
        InputError, match=r"t.csv:3: latency_ms is .*positive.*`--skip-invalid`.*`esm-onnx data lint FILE`"
    ):
        import_file(store, path, OFA, target="x")
    assert store.contents() == []
    left_out: list[NoLatency] = []
    assert import_file(store, path, OFA, target="x", on_invalid=left_out.append) == {"x": 2}
    assert [error.line for error in left_out] == [3]
    (content,) = store.contents()
    kept = list(store.measurements(content.space, content.target))
    assert [m.architecture.units[0][0]["kernel"] for m in kept] == [7, 5]
    assert [m.started_at for m in kept] == [0.0, 2.0]  # the place in the file, with that of the row left out between


@pytest.mark.parametrize("value", [None, math.nan, 0, -1, 10**400])
def test_a_json_line_without_a_latency_is_refused_or_left_out(
    value: object, tmp_path: Path, store: Store, tiny: Space, eight: list[Architecture]
) -> None:
    lines = [{"architecture": to_json(tiny, a), "latency_ms": 1.0 + i, "target": "x"} for i, a in enumerate(eight)]
    lines[4]["latency_ms"] = value
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    seen = [row.latency_ms for row in read_table(path, tiny)]
    assert [seen[0], seen[7]] == [1.0, 8.0]
    assert not 0 < seen[4] < math.inf
    with pytest.raises(InputError, match=r"m.jsonl:5: latency_ms is"):
        import_file(store, path, tiny)
    left_out: list[NoLatency] = []
    assert import_file(store, path, tiny, on_invalid=left_out.append) == {"x": 7}
    assert len(left_out) == 1


@pytest.mark.parametrize("value", ["3", True, [1], {}])
def test_what_is_no_number_is_wrong_in_itself(
    value: object, tmp_path: Path, store: Store, tiny: Space, eight: list[Architecture]
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"architecture": to_json(tiny, eight[0]), "latency_ms": value, "target": "x"}))
    with pytest.raises(InputError, match=r"m.jsonl:1: latency_ms is"):
        import_file(store, path, tiny, on_invalid=[].append)
    with pytest.raises(InputError, match=r"m.jsonl:1: latency_ms is"):
        list(read_table(path, tiny))


def test_nothing_but_invalid_rows_is_no_import(write: Write, store: Store) -> None:
    path = write(f"ks,e,d,r,ms\n{OFA_LINE.replace('3.5', '0')}\n")
    with pytest.raises(InputError, match="no line with a latency"):
        import_file(store, path, OFA, target="x", on_invalid=[].append)
    assert store.contents() == []


def test_rows_keep_their_order_and_a_file_is_imported_once(store: Store) -> None:
    path, reading = HERE / "ofa_176.csv", Reading(latency="rtx2080ti_ms")
    assert import_file(store, path, OFA, reading=reading) == {"rtx2080ti": 20}
    assert import_file(store, path, OFA, reading=reading) == {"rtx2080ti": 0}
    assert import_file(store, path, OFA, reading=Reading(latency="tesla_p40_ms"), target="rtx2080ti") == {
        "rtx2080ti": 20
    }
    with path.open() as file:
        expected = [float(line["rtx2080ti_ms"]) for line in csv.DictReader(file)]
    (content,) = store.contents()
    first = list(store.measurements(content.space, content.target))[:20]
    assert [m.latency_ms for m in first] == expected
    assert [m.started_at for m in first] == list(range(20))


def test_a_column_that_names_no_device_needs_a_target(write: Write, store: Store, tiny: Space) -> None:
    path = write(f"{HEADER}\n{GOOD}\n")
    with pytest.raises(InputError, match=r"t.csv:2: target is None, .*--target"):
        import_file(store, path, tiny)
    assert import_file(store, path, tiny, target="abacus") == {"abacus": 1}


def test_provenance_is_kept_through_another_store(tmp_path: Path, store: Store) -> None:
    path = HERE / "ofa_176.csv"
    import_file(
        store, path, OFA, reading=Reading(latency="note10_lut_ms"), provenance="sum of a table", target="note10"
    )
    import_file(store, path, OFA, reading=Reading(latency="tesla_p40_ms"))
    assert {c.target.name: provenances(store, c) for c in store.contents()} == {
        "note10": ["sum of a table"],
        "tesla_p40": ["measured"],
    }
    lines = list(exported_lines(store))
    assert [line["provenance"]["how"] for line in lines] == ["sum of a table"] * 20 + ["measured"] * 20
    (tmp_path / "out.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with Store(tmp_path / "second.db") as second:
        assert import_file(second, tmp_path / "out.jsonl", OFA) == {"note10": 20, "tesla_p40": 20}
        assert {c.target.name: provenances(second, c) for c in second.contents()} == {
            "note10": ["sum of a table"],
            "tesla_p40": ["measured"],
        }


@pytest.mark.parametrize("provenance", ["", "a\nb", "x" * 81])
def test_a_provenance_is_a_short_text(store: Store, provenance: str) -> None:
    with pytest.raises(InputError, match="provenance is"):
        import_file(store, HERE / "ofa_176.csv", OFA, provenance=provenance, reading=Reading(latency="tesla_p40_ms"))


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"the public data are not beside the repository: no {PUBLIC}")
@pytest.mark.parametrize(
    ("name", "space", "latency", "count"),
    [
        ("help_ofa/help_ofa.csv.gz", OFA, "titan_xp_64_ms", 5000),
        ("help_fbnet/help_fbnet_5000.csv.gz", FBNET, "raspi4_ms", 5000),
        ("syed_srinivasan_ofa/compofa_fixed.csv.gz", find_space("compofa-fixed"), "xeon_cpu_ms", 10_000),
        ("syed_srinivasan_ofa/compofa_elastic.csv.gz", find_space("compofa-elastic"), "note10_lut_ms", 10_000),
    ],
    ids=["HELP's OFA", "HELP's FBNet", "CompOFA, fixed kernels", "CompOFA, elastic kernels"],
)
def test_public_files_are_read_whole(name: str, space: Space, latency: str, count: int) -> None:
    rows = list(read_table(PUBLIC / name, space, Reading(latency=latency)))
    with gzip.open(PUBLIC / name, "rt", newline="") as file:
        assert [row.latency_ms for row in rows] == [float(line[latency]) for line in csv.DictReader(file)]
    assert len(rows) == count
