"""A user's own torch supernet, in a module that lies where the work is done."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from export import small_spaces as s

from esm_onnx.architectures import Export, Feature, Options, Space
from esm_onnx.errors import ExportError, InputError
from esm_onnx.export import ExportSettings, export_facts, subnet_name, write_subnet

SUPERNET = """
    import torch
    from torch import nn


    class Block(nn.Module):
        def __init__(self, width, kernel):
            super().__init__()
            self.conv = nn.Conv2d(width, width, kernel, padding=kernel // 2)
            self.norm = nn.BatchNorm2d(width)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            return x + self.dropout(torch.relu(self.norm(self.conv(x))))


    def make(architecture):
        blocks = [Block(6, block["kernel"]) for unit in architecture.units for block in unit]
        return nn.Sequential(nn.Conv2d(3, 6, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


    class Nets:
        made = staticmethod(make)


    def no_module(architecture):
        return "a network"

    def fails(architecture):
        raise KeyError("no checkpoint for\\nthis architecture")

    class Uneven(nn.Module):
        def forward(self, x):
            raise ValueError("cannot run")

    def uneven(architecture):
        return Uneven()

    class Twice(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), x.sum((2, 3))

    def twice(architecture):
        return Twice()

    number = 7
"""

OURS = Space(
    name="ours",
    depths=((1, 2, 3), (1, 2)),
    block=(Feature("kernel", (1, 3)),),
    export=Export("my_supernet:make", {"input": [3, 16, 16]}),
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current directory holds `my_supernet.py`; what is imported from it is forgotten afterwards."""
    (tmp_path / "my_supernet.py").write_text(textwrap.dedent(SUPERNET))
    (tmp_path / "broken_supernet.py").write_text("import torchvision_of_tomorrow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("my_supernet", "broken_supernet"):
        sys.modules.pop(name, None)


def written_by(writer, **settings):
    return replace(OURS, export=Export(writer, settings or {"input": [3, 16, 16]}))


@pytest.mark.parametrize("opset", [14, 17, 18, 20])
def test_takes_the_same_road(opset, tmp_path, capfd):
    architecture = s.several(OURS, 1)[0]
    settings = ExportSettings(batch=2, opset=opset)
    path = write_subnet(OURS, architecture, tmp_path / "subnets", settings).path
    assert capfd.readouterr() == ("", "")
    assert path.name == subnet_name(OURS, architecture, settings)
    assert list(path.parent.iterdir()) == [path]
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert {item.domain: item.version for item in model.opset_import} == {"": opset}
    assert model.ir_version == onnx.helper.find_min_ir_version_for(list(model.opset_import))
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["input", "logits"]
    assert str(tmp_path).encode() not in path.read_bytes()
    image = s.image_for(path)
    assert image.shape == (2, 3, 16, 16)
    (found,) = s.run(path, image)
    assert found == pytest.approx(evaluated(architecture, image), rel=1e-4, abs=1e-6)


def evaluated(architecture, image, seed=0):
    """What the module itself gives in eval mode, made under the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = sys.modules["my_supernet"].make(architecture)
    with torch.no_grad():
        return module.eval()(torch.from_numpy(image)).numpy()


def test_weights_are_inside_and_follow_the_seed(tmp_path):
    architecture = s.smallest(OURS)
    state = torch.random.get_rng_state()
    paths = [write_subnet(OURS, architecture, tmp_path / str(i), seed=seed).path for i, seed in enumerate((5, 5, 6))]
    assert torch.equal(state, torch.random.get_rng_state())
    outputs = [s.run(path, s.image_for(path))[0] for path in paths]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not np.allclose(outputs[0], outputs[2])
    assert export_facts(OURS, ExportSettings())["weights"] == "embedded"


def test_resolution(tmp_path):
    """Of the network's feature, of the setting, or 224."""
    varied = replace(written_by("my_supernet:make", resolution=64), network=(Feature("resolution", (24, 32)),))
    for space, network, side in (
        (varied, Options({"resolution": 24}), 24),
        (written_by("my_supernet:make", resolution=40), Options(), 40),
        (replace(OURS, export=Export("my_supernet:make", {})), Options(), 224),
    ):
        path = write_subnet(space, replace(s.smallest(space), network=network), tmp_path).path
        assert s.image_for(path).shape == (1, 3, side, side)


def test_attribute_of_an_attribute(tmp_path):
    assert write_subnet(written_by("my_supernet:Nets.made"), s.smallest(OURS), tmp_path).path.is_file()


def test_entry_point(tmp_path):
    """As an installed package would declare it."""
    site = tmp_path / "site"
    (site / "their_package-1.0.dist-info").mkdir(parents=True)
    (site / "their_package-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n"
    )
    entry = "[esm_onnx.writers]\ntheirs = my_supernet:make\n"
    (site / "their_package-1.0.dist-info" / "entry_points.txt").write_text(entry)
    sys.path.insert(0, str(site))
    assert write_subnet(written_by("theirs"), s.smallest(OURS), tmp_path).path.is_file()
    with pytest.raises(InputError, match=r"no writer 'them', expected one of resnet, mobilenetv3, .*, theirs, or"):
        write_subnet(written_by("them"), s.smallest(OURS), tmp_path)


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        ("no_such_module:make", "module 'no_such_module': ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken_supernet:make", "module 'broken_supernet': ModuleNotFoundError: No module named 'torchvision_of_tom"),
        ("my_supernet:absent", "module 'my_supernet': AttributeError: .*absent"),
        ("my_supernet:number", "is int, expected a function"),
        ("my_supernet:", "no writer 'my_supernet:', expected one of"),
        (":make", "no writer ':make'"),
        ("my_supernet:no_module", "space 'ours': the supernet gave str, expected a torch.nn.Module"),
        ("my_supernet:twice", "must take one tensor and give one tensor"),
    ],
)
@pytest.mark.parametrize("opset", [17, 18])
def test_what_a_supernet_gets_wrong(writer, message, opset, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        write_subnet(written_by(writer), s.smallest(OURS), tmp_path / "subnets", ExportSettings(opset=opset))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "subnets").exists()


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        ("my_supernet:fails", "the supernet failed: KeyError: .*no checkpoint for"),
        ("my_supernet:uneven", "torch.onnx.export failed: ValueError: cannot run"),
    ],
)
@pytest.mark.parametrize("opset", [17, 18])
def test_an_architecture_that_cannot_be_written_is_told_apart(writer, message, opset, tmp_path):
    with pytest.raises(ExportError, match=message) as caught:
        write_subnet(written_by(writer), s.smallest(OURS), tmp_path / "subnets", ExportSettings(opset=opset))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "subnets").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": [3, 16]}, "'input' has 2 numbers, expected 3"),
        ({"input": [3, 16, 0]}, "'input' has 0"),
        ({"widths": [8]}, "unknown setting 'widths', expected input, resolution"),
        ({"resolution": "high"}, "'resolution' has 'high'"),
    ],
)
def test_impossible_settings_of_a_supernet(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write_subnet(written_by("my_supernet:make", **settings), s.smallest(OURS), tmp_path)


def test_impossible_resolution_of_a_supernet(tmp_path):
    space = replace(written_by("my_supernet:make", resolution=64), network=(Feature("resolution", ("high",)),))
    with pytest.raises(InputError, match="feature 'resolution' has the option high, expected a whole number"):
        write_subnet(space, s.smallest(space), tmp_path)


def test_resolution_that_is_overruled(tmp_path):
    space = replace(OURS, network=(Feature("resolution", (24, 32)),))
    with pytest.raises(InputError, match="'input' and the feature 'resolution'"):
        write_subnet(space, s.smallest(space), tmp_path)


def test_without_torch(tmp_path):
    """In a process where torch cannot be imported: our own writers work, a supernet says what to install."""
    program = textwrap.dedent("""
        import sys
        sys.modules["torch"] = None
        from pathlib import Path
        from esm_onnx.architectures import find_space, sample
        from esm_onnx.export import write_subnet
        from esm_onnx.errors import ExportError, InputError
        from random import Random
        (space, theirs) = (find_space("densenet"), find_space("theirs.toml"))
        write_subnet(space, sample(space, 1, strategy="random", rng=Random(0))[0], Path("subnets"))
        try:
            write_subnet(theirs, sample(theirs, 1, strategy="random", rng=Random(0))[0], Path("subnets"))
        except InputError as error:
            print(error)
    """)
    (tmp_path / "later.py").write_text("def make(architecture):\n    raise AssertionError\n")
    table = 'name = "t"\nunits = 1\ndepth = [1]\n[block]\nkernel = [1, 3]\n[export]\nwriter = "later:make"\n'
    (tmp_path / "theirs.toml").write_text(table)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install esm-onnx[supernet]" in done.stdout


def test_nothing_heavy_is_imported():
    heavy = ("torch", "sklearn", "ray", "click")
    program = f"import sys, esm_onnx.export; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
