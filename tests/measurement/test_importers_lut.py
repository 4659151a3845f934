"""Once-for-All's lookup tables: sums that others published are sums of the table."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from esm_onnx.architectures import Architecture, find_space, to_json
from esm_onnx.errors import InputError
from esm_onnx.measurement.exchange import import_file, provenances
from esm_onnx.measurement.importers import Reading, read_table
from esm_onnx.measurement.importers_lut import read_lookup_table
from esm_onnx.measurement.store import Store

HERE = Path(__file__).parents[1] / "data"
PUBLIC = Path(__file__).parents[3] / "shared/data"
OFA = find_space("ofa-mobilenetv3")
EXTRACT = HERE / "ofa_lut_176.csv", HERE / "ofa_176.csv"
WHOLE = PUBLIC / "ofa_lut/ofa_mbv3_note10_lut.csv.gz", PUBLIC / "syed_srinivasan_ofa/ofa.csv.gz"


def entries() -> Iterator[dict[str, str]]:
    with EXTRACT[0].open() as file:
        yield from csv.DictReader(file)


@pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"no {PUBLIC}")
@pytest.mark.parametrize("name", ["fixed", "elastic"])
def test_published_sums_of_compofa_are_sums_of_the_same_table(name: str) -> None:
    """So the kernels that the one space fixes are theirs, as are the expansions that depths have."""
    space, lookup = find_space(f"compofa-{name}"), read_lookup_table(WHOLE[0])
    rows = read_table(WHOLE[1].with_name(f"compofa_{name}.csv.gz"), space, Reading(latency="note10_lut_ms"))
    errors = [abs(lookup.sum_ms(space, row.architecture) - row.latency_ms) for row in islice(rows, 300)]
    assert len(errors) == 300
    assert max(errors) < 5e-6


@pytest.mark.parametrize(
    ("table", "sums", "count"),
    [
        (*EXTRACT, 20),
        pytest.param(*WHOLE, 10_000, marks=pytest.mark.skipif(not PUBLIC.is_dir(), reason=f"no {PUBLIC}")),
    ],
    ids=["extract", "whole"],
)
def test_published_sums_are_sums_of_the_table(table: Path, sums: Path, count: int) -> None:
    """The authors' own sums, to 4e-6 ms: channels, strides, squeeze-excite and activations are as they had them."""
    lookup = read_lookup_table(table)
    assert lookup.device == "note10"
    rows = list(read_table(sums, OFA, Reading(latency="note10_lut_ms")))
    errors = [abs(lookup.sum_ms(OFA, row.architecture) - row.latency_ms) for row in rows]
    assert len(errors) == count
    assert max(errors) < 5e-6


@pytest.fixture
def architectures(tmp_path: Path) -> Path:
    path = tmp_path / "archs.jsonl"
    rows = islice(read_table(EXTRACT[1], OFA, Reading(latency="note10_lut_ms")), 5)
    path.write_text("\n".join(json.dumps(to_json(OFA, row.architecture)) for row in rows))
    return path


def test_sums_are_imported_and_say_that_they_are(store: Store, architectures: Path) -> None:
    reading = Reading(architectures=architectures)
    assert import_file(store, EXTRACT[0], OFA, reading=reading) == {"note10": 5}
    (content,) = store.contents()
    assert provenances(store, content) == ["sum of a table"]
    with EXTRACT[1].open() as file:
        published = [float(line["note10_lut_ms"]) for line in islice(csv.DictReader(file), 5)]
    found = [m.latency_ms for m in store.measurements(content.space, content.target)]
    assert found == pytest.approx(published, abs=5e-6)


def test_a_table_without_architectures_says_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"ofa_lut_176.csv: is a lookup table, expected .*--architectures FILE"):
        list(read_table(EXTRACT[0], OFA))


def test_a_layer_that_the_table_lacks_is_named(architectures: Path) -> None:
    lines = architectures.read_text().splitlines()
    architectures.write_text("\n".join([*lines[:2], lines[2].replace("176", "180")]))
    reading = Reading(architectures=architectures)
    with pytest.raises(InputError, match=r"archs.jsonl:3: no entry 'Conv-input:180x180x3-.*' at resolution 180"):
        list(read_table(EXTRACT[0], OFA, reading))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("densenet", "'growth'.*: these tables hold .* 'mobilenetv3' draws"),
        ("resnet", "no entry 'Conv-input:224x224x3"),
    ],
)
def test_a_space_of_other_layers_is_refused(name: str, message: str) -> None:
    space = find_space(name)
    architecture = Architecture(name, tuple((space.combinations[0],) for _ in space.depths))
    with pytest.raises(InputError, match=message):
        read_lookup_table(EXTRACT[0]).sum_ms(space, architecture)


def test_a_space_without_export_is_refused() -> None:
    rows = read_table(EXTRACT[1], OFA, Reading(latency="note10_lut_ms"))
    with pytest.raises(InputError, match=r"has no \[export\]"):
        read_lookup_table(EXTRACT[0]).sum_ms(replace(OFA, export=None), next(rows).architecture)


HEAD = "device,resolution,op_key,mean_ms\n"
BAD_CSV = {
    "no column": ("device,resolution,op_key\n", "no column 'mean_ms', expected device, resolution"),
    "twice": (f"{HEAD}a,8,Conv,1\na,8,Conv,1\n", r"t.csv:3: Conv stands twice at resolution 8"),
    "two devices": (f"{HEAD}a,8,Conv,1\nb,8,Conv_1,1\n", r"t.csv:3: device is 'b', expected 'a' as above"),
    "no latency": (f"{HEAD}a,8,Conv,nan\n", r"t.csv:2: the mean of a layer is 'nan', expected a number"),
    "negative": (f"{HEAD}a,8,Conv,-1\n", r"t.csv:2: the mean of a layer is '-1'"),
    "no number": (f"{HEAD}a,8,Conv,fast\n", r"t.csv:2: the mean of a layer is 'fast'"),
    "no resolution": (f"{HEAD}a,8.5,Conv,1\n", r"t.csv:2: resolution is '8.5', expected a whole number"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_bad_table_in_csv_is_named(tmp_path: Path, case: str) -> None:
    text, message = BAD_CSV[case]
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_lookup_table(path)


def test_without_pyyaml_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InputError, match=r"t.yaml: YAML needs PyYAML: pip install 'esm-onnx\[import\]'"):
        read_lookup_table(tmp_path / "t.yaml")


class TestYaml:
    @pytest.fixture(autouse=True)
    def _yaml(self) -> None:
        pytest.importorskip("yaml")

    def test_the_released_form_holds_the_same(self, tmp_path: Path) -> None:
        """A file for each resolution, a mapping for each layer; here two files of one table, one of them moved."""
        for resolution in (176, 192):
            lines = [
                f"{row['op_key']}:\n  count: 100\n  mean: {row['mean_ms']}\n  std: 0.01\n"
                for row in entries()
                if resolution == 176 or row["op_key"].startswith("Conv-")
            ]
            text = "".join(lines).replace("Conv-input:176x176", f"Conv-input:{resolution}x{resolution}")
            (tmp_path / f"{resolution}_lookup_table.yaml").write_text(text)
        expected = read_lookup_table(EXTRACT[0])
        one, both = read_lookup_table(tmp_path / "176_lookup_table.yaml"), read_lookup_table(tmp_path)
        assert (one.device, one.entries_ms) == (None, expected.entries_ms)
        stem = "Conv-input:192x192x3-output:88x88x24"
        assert both.entries_ms == {**expected.entries_ms, (192, stem): 0.604792}

    def test_sums_need_a_target_then(self, tmp_path: Path, architectures: Path, store: Store) -> None:
        path = tmp_path / "table.yaml"
        path.write_text("".join(f"{row['op_key']}: {{mean: {row['mean_ms']}}}\n" for row in entries()))
        reading = Reading(architectures=architectures)
        with pytest.raises(InputError, match=r"archs.jsonl:1: target is None, .*--target"):
            import_file(store, path, OFA, reading=reading)
        assert import_file(store, path, OFA, reading=reading, target="note10") == {"note10": 5}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: {\n", r"t.yaml:2: not YAML \("),
            ("", "t.yaml: None, expected layer: {count"),
            ("- 1\n", r"t.yaml: \[1\], expected layer"),
            ("3: {mean: 1}\n", "t.yaml: {3: .*expected layer"),
            ("Logits: {mean: 1}\n", "t.yaml: 0 layers Conv-input:RxRx3-…, expected one"),
            ("Conv-input:8x8x3-output:4x4x8: 3\n", "t.yaml: Conv-input:8x8x3-output:4x4x8 is 3, expected {count"),
            ("Conv-input:8x8x3-output:4x4x8: {mean: .nan}\n", "the mean of a layer is nan"),
            ("Conv-input:8x8x3-output:4x4x8: {mean: [1]}\n", r"the mean of a layer is \[1\]"),
            ("!!python/object/apply:os.abort []\n", "t.yaml:1: not YAML"),
            ("[" * 20_000, "not YAML"),
        ],
    )
    def test_a_bad_table_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "t.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_lookup_table(path)

    def test_a_folder_without_tables(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no YAML file in this folder"):
            read_lookup_table(tmp_path)
