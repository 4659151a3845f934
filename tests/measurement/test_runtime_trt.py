"""TensorRT where it is not: every name that the runtime uses exists in TensorRT's real Python bindings, and no more.

That is all that can be known without a GPU and TensorRT's own libraries, which are gigabytes and come from NVIDIA only:
whether an engine is built, runs, and is right is not known from here. (The same code builds with TensorRT for RTX:
`test_runtime_trt_rtx.py`.) Bindings are looked for in folders below $ESM_ONNX_TRT_BINDINGS, one each, since no process
can import two of them:

    pip install --no-deps --target FOLDER/tensorrt-10 tensorrt-cu13-bindings==10.16.1.11
    pip install --no-deps --target FOLDER/tensorrt-11 tensorrt-cu13-bindings==11.4.0.106

They want TensorRT's libraries as they are imported, if only nine functions of them: a C library of our own has those.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import esm_onnx.runtimes
import numpy as np
import pytest
from esm_onnx.runtimes.gpus import CudaGpu

RUNTIMES = Path(esm_onnx.runtimes.__path__[0])
FOLDER = Path(os.environ.get("ESM_ONNX_TRT_BINDINGS", "build/tensorrt")).resolve()
SHARED = ("trt_engine.py", "trt_runtime.py")

Api = Mapping[str, Mapping[str, str]]
"""Docstring by member, by name of a class, an enum or a function."""

DUMP = """
import ctypes, importlib, json, sys
for library in sys.argv[2:]:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
vendor = importlib.import_module(sys.argv[1])
def members(thing):
    return {name: str(getattr(thing, name).__doc__) for name in dir(thing)}
print(json.dumps({name: members(getattr(vendor, name)) for name in dir(vendor)}))
"""
FUNCTIONS = """
createInferBuilder_INTERNAL createInferRuntime_INTERNAL createInferRefitter_INTERNAL createNvOnnxParser_INTERNAL
createNvOnnxParserRefitter_INTERNAL getBuilderPluginRegistry getPluginRegistry getNvOnnxParserVersion
initLibNvInferPlugins
""".split()  # noqa: SIM905
LIBRARIES = ("nvonnxparser", "nvinfer", "nvinfer_plugin")


def empty_libraries(folder: Path, major: int) -> list[str]:
    """Libraries of the names that TensorRT's have, whose functions do nothing."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler to make a library with")
    source = folder / "empty.c"
    source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in FUNCTIONS))
    made = [folder / f"lib{name}.so.{major}" for name in LIBRARIES]
    for library in made:
        subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, source], check=True)
    return [str(library) for library in made]


def dump(module: str, folder: Path, libraries: list[str]) -> Api:
    """What a module has, asked of a process of its own."""
    if not folder.is_dir():
        pytest.skip(f"no bindings in {folder}: this file's first lines tell how to fetch them")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-W", "ignore", "-c", DUMP, module, *libraries]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    api: Api = json.loads(done.stdout)
    return api


class Uses:
    """What source code does with a vendor's package, known from its syntax and the package's own docstrings.

    Variables are told apart by name: one name stands for things of one class everywhere. `kinds` holds them; a variable
    gets its class from a call that makes it, whose docstring says what it returns.

    Args:
        roots: names that stand for the package itself.
    """

    def __init__(self, sources: list[str], api: Api, roots: set[str]) -> None:
        self.api, self._roots = api, roots
        self._trees = [ast.parse(source) for source in sources]
        self.kinds: dict[str, set[str]] = {}
        for _ in range(4):  # a variable may be made from another one, in a file that comes later
            for tree in self._trees:
                self._learn(tree)

    def problems(self) -> list[str]:
        found = [f"{name} is one of {sorted(kinds)}" for name, kinds in self.kinds.items() if len(kinds) > 1]
        for tree in self._trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute):
                    found += self._check_name(node)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    found += self._check_call(node, node.func)
                if isinstance(node, ast.ClassDef):
                    found += self._check_class(node)
        return found

    def _learn(self, tree: ast.AST) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and (kind := self._kind(node.value)):
                for target in node.targets:
                    self.kinds.setdefault(_last(target), set()).add(kind)

    def _kind(self, node: ast.AST) -> str | None:
        """The vendor's class of what an expression gives, or the class or enum itself; None where it is none."""
        if isinstance(node, ast.IfExp):
            return self._kind(node.body) or self._kind(node.orelse)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if self._is_root(owner):
                return node.func.attr if "__init__" in self.api.get(node.func.attr, {}) else None
            doc = self.api.get(self._kind(owner) or "", {}).get(node.func.attr, "")
            returned = re.findall(r"-> (?:[\w.:]*[.:])?(\w+)$", doc, re.MULTILINE)
            return next((name for name in returned if name in self.api), None)
        if isinstance(node, ast.Attribute) and self._is_root(node.value):
            return node.attr if node.attr in self.api else None
        if isinstance(node, ast.Name | ast.Attribute):
            kinds = self.kinds.get(_last(node), set())
            return next(iter(kinds)) if len(kinds) == 1 else None
        return None

    def _is_root(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name | ast.Attribute) and _last(node) in self._roots

    def _check_name(self, node: ast.Attribute) -> list[str]:
        if self._is_root(node.value):
            return [] if node.attr in self.api else [f"{node.lineno}: no {node.attr}"]
        kind = self._kind(node.value)
        return [] if kind is None or node.attr in self.api[kind] else [f"{node.lineno}: no {kind}.{node.attr}"]

    def _check_call(self, call: ast.Call, maker: ast.Attribute) -> list[str]:
        if any(isinstance(argument, ast.Starred) for argument in call.args):
            return []
        owner, name = self._kind(maker.value), maker.attr
        if self._is_root(maker.value):
            owner, name = maker.attr, "__init__"
        doc = self.api.get(owner or "", {}).get(name, "")
        return self._check_count(f"{call.lineno}: {owner}.{name}", doc, name, len(call.args) + len(call.keywords))

    def _check_class(self, node: ast.ClassDef) -> list[str]:
        """A class made from one of the vendor's overrides methods that are there."""
        found = []
        for base in node.bases:
            kind = self._kind(base)
            for method in node.body:
                if kind and isinstance(method, ast.FunctionDef) and method.name != "__init__":
                    if method.name not in self.api[kind]:
                        found.append(f"{method.lineno}: no {kind}.{method.name} to override")
                    doc, count = self.api[kind].get(method.name, ""), len(method.args.args) - 1
                    found += self._check_count(f"{method.lineno}: {kind}.{method.name}", doc, method.name, count)
        return found

    @staticmethod
    def _check_count(where: str, doc: str, name: str, given: int) -> list[str]:
        ranges = list(counts(doc, name))
        if not ranges or any(least <= given <= most for least, most in ranges):
            return []
        return [f"{where} takes {' or '.join(f'{least} to {most}' for least, most in ranges)} arguments, not {given}"]


def _last(node: ast.AST) -> str:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.strip("_")


def counts(doc: str, name: str) -> Iterator[tuple[int, int]]:
    """Least and greatest number of arguments, without self, of each signature in a docstring of pybind11's."""
    for parameters in re.findall(rf"^(?:\d+\. )?{name}\((self: .*)\) ->", doc, re.MULTILINE):
        while parameters != (parameters := re.sub(r"\[[^\[\]]*\]", "", parameters)):
            pass
        each = parameters.split(", ")[1:]
        yield sum("=" not in parameter for parameter in each), len(each)


def sources(*names: str) -> list[str]:
    return [(RUNTIMES / name).read_text() for name in (*SHARED, *names)]


ROOTS = {"trt", "library", "tensorrt", "tensorrt_rtx"}
USED = {"Builder", "INetworkDefinition", "OnnxParser", "IBuilderConfig", "Runtime", "ICudaEngine", "IExecutionContext"}


@pytest.mark.parametrize("major", [10, 11])
def test_every_name_of_tensorrt_exists_in_its_real_bindings(major: int, tmp_path: Path) -> None:
    folder = FOLDER / f"tensorrt-{major}"
    api = dump("tensorrt_bindings", folder, empty_libraries(tmp_path, major))
    uses = Uses(sources("trt.py"), api, ROOTS)
    assert uses.problems() == []
    assert set.union(*uses.kinds.values()) >= {*USED, "ITimingCache"}


START = """
import ctypes, sys
for library in sys.argv[1:]:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
import tensorrt_bindings
from esm_onnx.errors import WorkError
from esm_onnx.runtimes.trt_engine import listener, starting
for kind in (tensorrt_bindings.Builder, tensorrt_bindings.Runtime):
    listener(tensorrt_bindings).errors.append("CUDA initialization failure\\nwith error: 35")
    try:
        with starting(tensorrt_bindings): kind(listener(tensorrt_bindings))
    except WorkError as error: print(error)
"""


@pytest.mark.parametrize("major", [10, 11])
def test_a_tensorrt_that_cannot_start_says_why(major: int, tmp_path: Path) -> None:
    """The libraries that do nothing give no builder: so does TensorRT where there is no device, and logs the reason."""
    folder = FOLDER / f"tensorrt-{major}"
    libraries = empty_libraries(tmp_path, major)
    dump("tensorrt_bindings", folder, libraries)  # skips where there are none
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-W", "ignore", "-c", START, *libraries]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == 2 * "tensorrt_bindings cannot start: CUDA initialization failure with error: 35\n"


def test_every_name_of_tensorrt_for_rtx_exists_in_its_real_bindings() -> None:
    api = dump("tensorrt_rtx", FOLDER / "tensorrt-rtx", [])
    uses = Uses(sources("trt_rtx.py"), api, ROOTS)
    assert uses.problems() == []
    assert set.union(*uses.kinds.values()) >= {*USED, "IRuntimeConfig"}


MADE = """make(*args)
Overloaded function.

1. make(self: x.Builder) -> a.b.Network


2. make(self: x.Builder, n: int) -> a.b.Network
"""


def test_what_does_not_exist_is_found() -> None:
    api: Api = {
        "Builder": {"__init__": "__init__(self: x.Builder, logger: x.ILogger) -> None", "make": MADE},
        "Network": {"__init__": "cannot be called", "add": "add(self: x.Network, n: list[int, int], f: int = 0) -> x"},
        "Flag": {"ON": "None"},
        "ILogger": {"log": "log(self: x.ILogger, severity: x.Severity, msg: str) -> None"},
    }
    sound = [
        "network = self._builder.make()\nnetwork.add(1)\nnetwork.add(1, f=trt.Flag.ON)",
        "self._builder = trt.Builder(log)\nclass Log(trt.ILogger):\n    def log(self, severity, message): pass",
    ]
    assert Uses(sound, api, {"trt"}).problems() == []
    for broken, expected in {
        "trt.Bilder(1)": ["1: no Bilder"],
        "trt.Flag.OFF": ["1: no Flag.OFF"],
        "trt.Builder()": ["1: Builder.__init__ takes 1 to 1 arguments, not 0"],
        "network.remove()": ["1: no Network.remove"],
        "network.add(1, 2, 3)": ["1: Network.add takes 1 to 2 arguments, not 3"],
        "class Log(trt.ILogger):\n    def tell(self): pass": ["2: no ILogger.tell to override"],
        "class Log(trt.ILogger):\n    def log(self, text): pass": ["2: ILogger.log takes 2 to 2 arguments, not 1"],
        "network = trt.Builder(1)": ["network is one of ['Builder', 'Network']"],
    }.items():
        assert Uses([*sound, broken], api, {"trt"}).problems() == expected


def test_every_name_of_cuda_exists_in_its_real_bindings() -> None:
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="no cuda-bindings here", exc_type=ImportError)
    tree = ast.parse((RUNTIMES / "cuda.py").read_text())
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    of_cuda = {node.attr for node in used if _last(node.value) == "cudart"}
    of_device = {node.attr for node in used if _last(node.value) == "about"}
    members = {(node.value.attr, node.attr) for node in used if _last(getattr(node.value, "value", node)) == "cudart"}
    assert {"cudaGraphLaunch", "cudaEventElapsedTime"} <= of_cuda
    assert [name for name in of_cuda if not hasattr(cudart, name)] == []
    assert [name for name in of_device if not hasattr(cudart.cudaDeviceProp(), name)] == []
    assert [pair for pair in members if not hasattr(getattr(cudart, pair[0]), pair[1])] == []
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and _last(call.func.value) == "cudart":
            signature = getattr(cudart, call.func.attr).__doc__.splitlines()[0]
            parameters = signature.partition("(")[2].rpartition(")")[0]
            assert len(call.args) == len(parameters.split(", ") if parameters else []), signature


def test_without_a_driver_every_call_says_so_and_none_is_wrongly_typed() -> None:
    cuda = pytest.importorskip("esm_onnx.runtimes.cuda", reason="no cuda-bindings here", exc_type=ImportError)
    cudart = pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)
    if cudart.cudaDriverGetVersion()[1]:
        pytest.skip("there is a driver, to which these made-up addresses would mean something")
    stream = cuda.Stream(cudart.cudaStream_t(7), cudart.cudaEvent_t(5), cudart.cudaEvent_t(6))
    array = np.zeros(4, np.float32)
    for call in (
        lambda: stream.time_ns(lambda: None),
        stream.wait,
        lambda: stream.clear(64, 4),
        lambda: stream.bring(array, 64),
        lambda: stream.fetch(64, array),
        stream.captured(lambda: None).__enter__,
        cuda.opened().__enter__,
        cuda.allocated(5).__enter__,
        lambda: cuda.use(CudaGpu(0, "", "", 0, None)),
    ):
        with pytest.raises(cuda.CudaError, match="cudaErrorInsufficientDriver: CUDA driver version is insufficient"):
            call()


def test_missing_software_is_told_with_the_line_that_installs_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tensorrt'] = None\nfrom esm_onnx.measurement.runtime import find_runtime\n"
        "try: find_runtime('trt')\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    assert "runtime 'trt' cannot be used here" in done.stdout
    assert "tensorrt" in done.stdout
    assert "pip install 'esm-onnx[trt]'" in done.stdout
