"""Activations stay ordinary numbers through the deepest networks, so that timings are not those of odd numbers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from export import small_spaces as s

from esm_onnx.architectures import find_space
from esm_onnx.export import write_subnet

LEAST_NORMAL = np.finfo(np.float32).tiny


@pytest.fixture(scope="module")
def folder():
    """One pool for all, and gone afterwards: it is too large to be kept among pytest's folders."""
    with TemporaryDirectory() as name:
        yield Path(name)


def all_values(path):
    """Every tensor that flows through the subnet, by name, for a standard normal image."""
    model = onnx.load(path, load_external_data=False)
    names = [node.output[0] for node in model.graph.node]
    for name in names[:-1]:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    opened = path.with_suffix(".opened.onnx")
    onnx.save(model, opened)
    return dict(zip(names, s.run(opened, s.image_for(path), names), strict=True))


def assert_ordinary(path):
    values = all_values(path)
    assert len(values) > 10
    for name, value in values.items():
        size = np.abs(value)
        assert np.isfinite(value).all(), name
        assert size.max() < 1e3, name
        assert not ((size > 0) & (size < LEAST_NORMAL)).any(), name
        assert np.sqrt(np.square(value, dtype=np.float64).mean()) > 0.01, name
    assert np.std(values["logits"]) > 0.01


@pytest.mark.parametrize(
    ("family", "choice"), [("resnet", 0), ("mobilenetv3", 0), ("mobilenetv3", -1), ("densenet", -1)]
)
def test_deepest_as_built_in(family, choice, folder):
    space = find_space(family)
    assert_ordinary(write_subnet(space, s.uniform(space, max(space.slots), choice), folder).path)


@pytest.mark.parametrize("family", s.FAMILIES)
@pytest.mark.parametrize("choice", [0, -1])
def test_deepest_and_narrow(family, choice, folder):
    """Small maps, on which wide kernels see mostly padding."""
    space = s.narrow(family, resolution=32)
    assert_ordinary(write_subnet(space, s.uniform(space, max(space.slots), choice), folder).path)


@pytest.mark.parametrize("family", s.FAMILIES)
def test_shallowest(family, folder):
    space = s.narrow(family)
    assert_ordinary(write_subnet(space, s.smallest(space), folder).path)
