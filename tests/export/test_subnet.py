from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from export import small_spaces as s
from onnx.reference import ReferenceEvaluator

from esm_onnx.architectures import Feature, find_space
from esm_onnx.architectures.toml_space import space_from_table
from esm_onnx.errors import InputError, WorkError
from esm_onnx.export import ExportSettings, Subnet, export_facts, subnet_name, write_subnet
from esm_onnx.export.pool import ALIGNMENT, Allotment, signed
from esm_onnx.export.writers import find_writer

NEWEST = onnx.defs.onnx_opset_version()
TESTS = Path(s.__file__).parents[1]
WIDTHS = {"widths": [32, 48, 64, 96]}


def write(space, folder, **settings):
    return write_subnet(space, s.smallest(space), folder, ExportSettings(**settings)).path


@pytest.mark.parametrize("family", s.FAMILIES)
def test_what_is_written(family, tmp_path):
    space = s.narrow(family)
    architecture = s.several(space, 1)[0]
    subnet = write_subnet(space, architecture, tmp_path / "new" / "folder")
    assert subnet == Subnet(
        architecture, tmp_path / "new" / "folder" / subnet_name(space, architecture, ExportSettings())
    )
    onnx.checker.check_model(str(subnet.path), full_check=True)
    model = onnx.load(subnet.path, load_external_data=False)
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert s.shape_of(model.graph.output[0]) == [1, 10]
    assert model.ir_version == 8
    folded = family != "densenet"
    assert any(node.op_type == "BatchNormalization" for node in model.graph.node) is not folded
    assert {path.suffix for path in subnet.path.parent.iterdir()} == {".onnx", ".f32"}


@pytest.mark.parametrize("family", s.FAMILIES)
def test_each_node_names_its_block(family, tmp_path):
    space = s.narrow(family)
    architecture = s.several(space, 1, seed=5)[0]
    model = onnx.load(write_subnet(space, architecture, tmp_path).path, load_external_data=False)
    blocks = {f"u{u}.b{j}" for u, unit in enumerate(architecture.units, 1) for j in range(1, len(unit) + 1)}
    outside = {"stem", "head"} | ({f"u{u}.transition" for u in range(1, 5)} if family == "densenet" else set())
    found = {".".join(n.name.split(".")[: 1 + n.name.startswith("u")]) for n in model.graph.node}
    assert found == blocks | outside
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert all(list(node.output) == [node.name] for node in list(model.graph.node)[:-1])


@pytest.mark.parametrize("family", s.FAMILIES)
def test_references_into_the_pool_do_not_overlap(family, tmp_path):
    space = s.narrow(family)
    for architecture in s.several(space, 5, seed=1):
        path = write_subnet(space, architecture, tmp_path).path
        files = {}
        for entry in s.references(path):
            start = int(entry["offset"])
            assert start % ALIGNMENT == 0
            files.setdefault(entry["location"], []).append((start, start + int(entry["length"])))
        for name, ranges in files.items():
            assert all(end <= start for (_, end), (start, _) in pairwise(sorted(ranges)))
            assert max(end for _, end in ranges) <= (tmp_path / name).stat().st_size


def test_one_pool_serves_all_subnets_of_a_folder(tmp_path):
    space = s.narrow("mobilenetv3")
    few, many = s.uniform(space, 1, -1), s.uniform(space, 7, -1)
    image = s.image_for(first := write_subnet(space, few, tmp_path).path)
    before = s.run(first, image)
    write_subnet(space, many, tmp_path)
    assert np.array_equal(before, s.run(first, image))
    alone = write_subnet(space, few, tmp_path / "alone").path
    assert alone.read_bytes() == first.read_bytes()
    assert np.array_equal(before, s.run(alone, image))


@pytest.mark.parametrize("family", s.FAMILIES)
def test_embedded_weights_give_the_same_outputs(family, tmp_path):
    space = s.narrow(family)
    architecture = s.several(space, 1, seed=2)[0]
    outside = write_subnet(space, architecture, tmp_path / "pool").path
    inside = write_subnet(space, architecture, tmp_path / "embedded", ExportSettings(embed_weights=True)).path
    assert list(inside.parent.iterdir()) == [inside]
    image = s.image_for(outside)
    assert np.array_equal(s.run(outside, image), s.run(inside, image))


@pytest.mark.parametrize("family", s.FAMILIES)
@pytest.mark.parametrize("embed", [False, True])
def test_fp16_has_the_rounded_weights_of_fp32(family, embed, tmp_path):
    space = s.narrow(family)
    architecture = s.several(space, 1, seed=2)[0]
    wide, narrow = (
        onnx.load(write_subnet(space, architecture, tmp_path, ExportSettings(precision=p, embed_weights=embed)).path)
        for p in ("fp32", "fp16")
    )
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in wide.graph.initializer}
    assert {tensor.name for tensor in narrow.graph.initializer} == set(weights)
    for tensor in narrow.graph.initializer:
        assert tensor.data_type == onnx.TensorProto.FLOAT16
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), weights[tensor.name].astype(np.float16))
    kinds = {value.type.tensor_type.elem_type for value in (*narrow.graph.input, *narrow.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert [node.op_type for node in narrow.graph.node] == [node.op_type for node in wide.graph.node]


def test_same_bytes_from_another_process(tmp_path):
    space = s.narrow("densenet")
    path = write_subnet(space, s.smallest(space), tmp_path / "here", seed=3).path
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from export import small_spaces as s\n"
        "from esm_onnx.export import write_subnet; space = s.narrow('densenet')\n"
        "write_subnet(space, s.smallest(space), Path(sys.argv[1]), seed=3)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there"), str(TESTS)], check=True)
    for file in path.parent.iterdir():
        assert (tmp_path / "there" / file.name).read_bytes() == file.read_bytes()


def test_seed_changes_values_only(tmp_path):
    space = s.narrow("resnet")
    zero = write_subnet(space, s.smallest(space), tmp_path / "0", seed=0).path
    one = write_subnet(space, s.smallest(space), tmp_path / "1", seed=1).path
    assert zero.name == one.name
    assert not np.allclose(*(s.run(path, s.image_for(path))[0] for path in (zero, one)))


def test_name_differs_with_whatever_differs():
    space = s.narrow("resnet")
    first, second = s.several(space, 2)
    usual = ExportSettings()
    found = {
        subnet_name(space, first, usual),
        subnet_name(space, second, usual),
        subnet_name(space, first, ExportSettings(batch=2)),
        subnet_name(space, first, ExportSettings(opset=18)),
        subnet_name(space, first, ExportSettings(embed_weights=True)),
        subnet_name(s.narrow("resnet", stem=24), first, usual),
    }
    assert len(found) == 6
    assert all(name.startswith("resnet-") and len(name) == len("resnet-.onnx") + 16 for name in found)
    assert subnet_name(space, first, usual) == subnet_name(s.narrow("resnet"), first, ExportSettings())


def test_largest_resnet_is_a_small_file():
    space = find_space("resnet")
    model = find_writer(space)(space, s.largest(space), ExportSettings(), Allotment(0, embed=False))
    assert model.ByteSize() <= 64_000


@pytest.mark.parametrize("opset", range(14, NEWEST + 1))
@pytest.mark.parametrize("family", s.FAMILIES)
def test_every_opset(family, opset, tmp_path):
    """Checked by onnx, run by its reference implementation: ONNX Runtime may lag behind the newest."""
    space = s.narrow(family, resolution=16)
    path = write(space, tmp_path, opset=opset)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert {item.domain: item.version for item in model.opset_import} == {"": opset}
    image = s.image_for(path)
    (expected,) = s.run(write(space, tmp_path, opset=17), image)
    (found,) = ReferenceEvaluator(model).run(None, {"input": image})
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("family", s.FAMILIES)
def test_batch(family, tmp_path):
    """Images of a batch do not touch each other."""
    space = s.narrow(family)
    three, one = write(space, tmp_path, batch=3), write(space, tmp_path)
    image = s.image_for(three)
    assert image.shape[0] == 3
    (together,) = s.run(three, image)
    apart = np.concatenate([s.run(one, image[i : i + 1])[0] for i in range(3)])
    assert together == pytest.approx(apart, rel=1e-4, abs=1e-5)


def test_facts():
    space = s.narrow("resnet")
    facts = export_facts(space, ExportSettings(batch=2))
    assert json.loads(facts.pop("writer_settings")) == space.export.settings
    assert facts == {
        "writer": "resnet",
        "batch": 2,
        "opset": 17,
        "precision": "fp32",
        "weights": "pool",
        "export_version": 1,
    }
    assert export_facts(space, ExportSettings(embed_weights=True))["weights"] == "embedded"
    facts = export_facts(s.with_writer(space, "textwrap:dedent"), ExportSettings())
    assert facts["weights"] == "embedded"
    source = hashlib.sha256(Path(textwrap.__file__).read_bytes()).hexdigest()
    assert facts["writer_source"] == source[:16]  # a supernet that was edited is another one


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"batch": True}, "batch is True"),
        ({"opset": 13}, f"opset is 13, expected 14 to {NEWEST}"),
        ({"opset": NEWEST + 1}, f"expected 14 to {NEWEST}"),
        ({"opset": "17"}, "opset is '17'"),
        ({"precision": "fp8"}, "precision is 'fp8', expected one of fp32, fp16, int8, uint8"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(InputError, match=message):
        ExportSettings(**settings)


def test_space_without_export(tmp_path):
    space = replace(find_space("resnet"), export=None)
    for ask in (lambda: write(space, tmp_path), lambda: export_facts(space, ExportSettings())):
        with pytest.raises(InputError, match=r"has no \[export\].*writer = .*resnet, mobilenetv3, densenet"):
            ask()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (s.with_writer(find_space("resnet"), "resnet"), "no setting 'widths', expected a list of 4 numbers"),
        (s.narrow("resnet", widths=[8, 8]), r"setting 'widths' has 2 numbers, expected 4: \[8, 8\]"),
        (s.narrow("resnet", widths="8"), "setting 'widths' is '8', expected a list"),
        (s.narrow("resnet", widths=64), "setting 'widths' is 64, expected a list"),
        (s.narrow("resnet", widths=[8, 8, 0, 8]), "'widths' has 0, expected a whole number from 1"),
        (s.narrow("resnet", strides=[1, 2, 2.5, 2]), "'strides' has 2.5, expected a whole number"),
        (s.narrow("resnet", stem="wide"), "'stem' has 'wide', expected a whole number"),
        (s.narrow("resnet", classes=True), "'classes' has True"),
        (s.narrow("resnet", resolution=-1), "'resolution' has -1"),
        (s.narrow("resnet", stmm=16), "unknown setting 'stmm', expected widths, strides"),
        (s.narrow("mobilenetv3", head=[8]), "'head' has 1 numbers, expected 2"),
        (s.narrow("mobilenetv3", se=[0, 1, 2, 0]), "'se' has 2, expected 0 or 1"),
        (s.narrow("mobilenetv3", ratio=0), "'ratio' has 0, expected a number above 0"),
        (s.narrow("densenet", growth=0), "'growth' has 0"),
        (s.with_writer(find_space("densenet"), "resnet", **WIDTHS), "no feature 'expansion' in .* the writer needs"),
        (s.with_writer(find_space("resnet"), "densenet"), "feature 'expansion' in .* is unknown to the writer"),
        (s.with_writer(find_space("resnet"), "vgg"), "no writer 'vgg', expected one of resnet, mobilenetv3, densenet"),
    ],
)
def test_unfit_space(space, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write(space, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "feature", "message"),
    [
        ("block", Feature("kernel", (3, 4)), "'kernel' has the option 4, expected an odd whole number"),
        ("block", Feature("kernel", ("wide",)), "'kernel' has the option wide"),
        ("block", Feature("kernel", (3.5,)), "'kernel' has the option 3.5"),
        ("network", Feature("resolution", (64.5,)), "'resolution' has the option 64.5, expected a whole number"),
        ("network", Feature("width", (1, 2)), r"'width' in \[network\] is unknown to the writer, expected resolution"),
        ("unit", Feature("se", (0, 1)), "feature 'se' in .* is unknown to the writer, expected kernel, expansion"),
    ],
)
def test_features_that_the_writer_does_not_know(part, feature, message, tmp_path):
    space = s.narrow("resnet")
    kept = tuple(other for other in getattr(space, part) if other.name != feature.name)
    space = replace(space, **{part: (*kept, feature)})
    with pytest.raises(InputError, match=message):
        write(space, tmp_path)


@pytest.mark.parametrize("expansion", [-1, 0, float("inf"), "wide"])
def test_impossible_expansion(expansion, tmp_path):
    space = replace(s.narrow("resnet"), block=(Feature("kernel", (3,)), Feature("expansion", (expansion,))))
    with pytest.raises(InputError, match="'expansion' has the option"):
        write(space, tmp_path)


def test_architecture_of_another_space(tmp_path):
    with pytest.raises(InputError, match="belongs to space 'densenet'"):
        write_subnet(s.narrow("resnet"), s.smallest(s.narrow("densenet")), tmp_path)


def test_folder_that_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(InputError, match="cannot be made a folder"):
        write(s.narrow("resnet"), path)


def test_damaged_pool_leaves_no_subnet(tmp_path):
    (tmp_path / signed(6).file(0)).write_text("mine")
    with pytest.raises(InputError, match="delete it"):
        write(s.narrow("resnet"), tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_disk_that_fails(tmp_path):
    space = s.narrow("resnet")
    (tmp_path / signed(6).file(0)).mkdir()
    with pytest.raises(WorkError, match="cannot be written: Is a directory"):
        write(space, tmp_path)


def test_features_may_stand_in_either_table(tmp_path):
    """A writer asks for features by name: a kernel of the whole unit is as good as one of each block."""
    table = {
        "name": "either",
        "units": 1,
        "depth": [2],
        "unit": {"kernel": [3, 5]},
        "block": {"expansion": [0.5, 1]},
        "network": {"resolution": [32, 48]},
        "export": {"writer": "resnet", "widths": [32], "classes": 4},
    }
    space = space_from_table(table)
    for architecture in s.several(space, 4):
        path = write_subnet(space, architecture, tmp_path).path
        assert s.image_for(path).shape[2] == architecture.network["resolution"]
        shapes = {t.name: list(t.dims) for t in onnx.load(path, load_external_data=False).graph.initializer}
        assert shapes["u1.b2.conv2.weight"][2] == architecture.units[0][0]["kernel"]
