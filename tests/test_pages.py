"""Every command that the README and the pages show is run, in the order in which a page shows it.

A page has a folder of its own, which holds what pages take for granted (`TAKEN_FOR_GRANTED`). A block without a
language is a shell's where one of its lines is known here: all of them are then run, or excepted with a reason. A block
with a language whose first line names a file, as a comment, becomes that file.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import pytest
from measurement.damaging import damage
from onnx import TensorProto
from plugins import install_faulty
from test_search_estimates import write_accuracy

from esm_onnx.architectures import find_space, genome_length
from esm_onnx.cli import commands
from esm_onnx.prediction import mlp

ROOT = Path(__file__).parents[1]
if not (ROOT / "README.md").is_file():
    pytest.skip("the pages are not installed with the package", allow_module_level=True)
for needed in ("matplotlib", "onnxscript", "pymoo", "skl2onnx", "torch"):
    pytest.importorskip(needed, reason=f"pages show commands that need {needed}")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

INSTEAD = (
    (r"^docker run .* esm-onnx:\w+ ", "esm-onnx ", "no engine here: tools/container-check builds and runs the image"),
    (r"--runtime (ort-cpu|torch-cuda)\b(?!.*--layers)", "--runtime dry", "a real clock is not the same twice"),
    (r"--runtime openvino\b", "--runtime faulty", "so is its: a second runtime with a clock of its own"),
    (r"^.* --runtime onnx-reference .*$", r"\g<0> --plain --runs 5 --tolerance 1000%", "a real clock, taken as it is"),
    (
        r"--architectures \S+ --layers$",
        "--architectures one.jsonl --layers --store layers.db",
        "dry tells no layers: one on ort-cpu, and apart from the others",
    ),
    (r"--count \d+\b", "--count 16", "enough to train on"),
    (r"^esm-onnx compare(?! --across)", r"\g<0> --seeds 1", "one permutation shows it"),
    (r"^esm-onnx compare(?!.*--(across|surrogate))", r"\g<0> --surrogate tree", "tests/cli/test_comparing.py has all"),
    (r"--sizes [\d,]+", "--sizes 10", "one size shows it"),
    (r"(--seeds 1 .*)--seeds \d+", r"\1", "given above"),
    (r"--processes \d+", "--processes 1", "the MLP is quick (`quick`) in this process only"),
    (r"^esm-onnx search", r"\g<0> --population 20 --generations 5", "it need not find the best"),
    (r"^esm-onnx tune", r"\g<0> --epochs 4 --grace 1", "all combinations begin, and most end"),
    (r"^esm-onnx doctor(?! --runtime)", r"\g<0> --runtime dry", "a real clock"),
    (r"^esm-onnx doctor", r"\g<0> --seconds 1", "its clock is not ours"),
    (r"^pytest ", "python -m pytest -q -p no:cacheprovider ", "as a process of the same Python"),
    (
        r"^pip install -e \.$",
        "python -m pip install -q --no-index --no-deps --no-build-isolation --target site .",
        "into the page's folder, which is on the path, and from nowhere else",
    ),
)
"""What stands on a page, what is run instead, and why; one after the other."""

ONLY_READ = (
    (r"esm-onnx .*--runtime trt\b", "no GPU here: tools/gpu-check runs it where there is one"),
    (r"esm-onnx fleet start|esm-onnx .*--fleet HEAD", "takes several machines: tests/fleet has them as processes"),
    (r"ray stop$|scp ", "the same"),
    (r"docker (build|buildx|load) ", "no engine here: tools/container-check"),
    (r"sudo ", "changes the machine"),
    (r"pip install (?!-e \.$)", "takes packages from elsewhere: tools/install"),
    (r"tools/(quickstart|test|install)\b", "runs for minutes; the second one runs this"),
    (r"tools/paper/", "takes public data that are not in the repository"),
    (r"esm-onnx/tools/cpp/sdk |cmake |build/", "tests/cpp/test_cpp_page.py builds and runs it"),
    (r"\.venv/bin/", "tools/test runs it"),
)
"""What is not run, and why. A command of ours is parsed to its last option nevertheless."""

TAKEN_FOR_GRANTED = """
esm-onnx sample --space mobilenetv3 --count 16 --out archs.jsonl
esm-onnx sample --space mobilenetv3 --count 8 --exclude archs.jsonl --out more.jsonl
esm-onnx sample --space mobilenetv3 --count 1 --out one.jsonl
esm-onnx profile --space mobilenetv3 --runtime dry --architectures archs.jsonl --store esm.db
esm-onnx profile --space mobilenetv3 --runtime dry --architectures more.jsonl --store more.db
esm-onnx profile --space mobilenetv3 --runtime faulty --architectures archs.jsonl --store other.db
esm-onnx train --surrogate linear --store esm.db --out predictor.onnx
esm-onnx train --surrogate linear --store other.db --out known.onnx
esm-onnx data import ofa.csv.gz --space ofa-mobilenetv3 --latency rtx2080ti_ms --target a --store a.db
esm-onnx data import ofa.csv.gz --space ofa-mobilenetv3 --latency tesla_p40_ms --target b --store b.db
esm-onnx train --surrogate linear --store a.db --out a.onnx
esm-onnx train --surrogate linear --store b.db --out b.onnx
esm-onnx data export --store esm.db --out phone.jsonl
esm-onnx sample --space mnasnet.toml --count 16 --out mnasnet.jsonl
esm-onnx profile --space mnasnet.toml --runtime dry --architectures mnasnet.jsonl --store mnasnet.db
esm-onnx data export --store mnasnet.db --out measured.jsonl
esm-onnx export --space mobilenetv3 --architectures more.jsonl --embed-weights --out written
"""
"""Measurements, predictors and files of the reader's own, under the names that pages give them."""

STEP = re.compile(r"^```(\w*)\n(.*?)^```$|`(esm-onnx\s[^`]*\s-[^`]*)`", re.MULTILINE | re.DOTALL)
"""A block, or a command with options in the text."""
NAMED = re.compile(r"(?:#|//) ([\w-]+\.\w+)$", re.MULTILINE)
KNOWN = re.compile("|".join(["esm-onnx ", *(f"(?:{pattern})" for pattern, *_ in (*INSTEAD, *ONLY_READ))]))
PATH = re.compile(r"`((?:tools|docs|tests|runtimes|esm_onnx)/[\w./-]+)[^`]*`")


@dataclass(frozen=True)
class Step:
    """A file to write, or a command to run; in the text a command may be part of one."""

    text: str
    file: str | None = None
    in_text: bool = False


def steps(page: Path) -> Iterator[Step]:
    """In the order of the page."""
    for language, block, command in STEP.findall(page.read_text()):
        if command:
            yield Step(" ".join(command.split()), in_text=True)
        elif language and (named := NAMED.match(block)):
            yield Step(block, file=named[1])
        elif not language:
            lines = [line.partition(" #")[0].strip() for line in re.sub(r"\\\n\s*", "", block).splitlines()]
            if any(KNOWN.match(line) for line in lines):
                yield from (Step(line) for line in lines if line and not line.startswith("#"))


def resolved(words: list[str]) -> tuple[click.Context, click.Command, list[str]]:
    """The command that is meant, in its group, and what is left of the words."""
    found, context = commands, click.Context(commands)
    while isinstance(found, click.Group):
        name, command, words = found.resolve_command(context, words)
        assert command is not None, name
        found = command
    return context, found, words


def has_options(words: list[str]) -> bool:
    """Whether a command of ours has all the options that it is shown with."""
    _, command, rest = resolved(words)
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    return {word for word in rest if word.startswith("--")} <= known


def run(command: str) -> None:
    """Runs a command as it stands on a page, or what stands for it."""
    todo = command
    for pattern, instead, _ in INSTEAD:
        todo = re.sub(pattern, instead, todo)
    program, *words = shlex.split(re.sub(*INSTEAD[0][:2], command).partition(" > ")[0])
    if program == "esm-onnx":
        context, found, rest = resolved(words)
        found.make_context(found.name, rest, parent=context)
    if any(re.match(pattern, command) for pattern, _ in ONLY_READ):
        return
    todo, _, file = todo.partition(" > ")
    program, *words = shlex.split(todo)
    if program == "esm-onnx":
        with open(file, "w") if file else nullcontext(sys.stdout) as out, redirect_stdout(out):
            commands.main(words, prog_name=program, standalone_mode=False)
    else:
        assert program == "python", "neither a command of ours nor one of INSTEAD or ONLY_READ"
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def granted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what pages take for granted."""
    folder = tmp_path_factory.mktemp("granted")
    with pytest.MonkeyPatch.context() as patch:
        install_faulty(folder, patch)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(folder)
        (folder / "ofa.csv.gz").write_bytes(gzip.compress((ROOT / "tests/data/ofa_176.csv").read_bytes()))
        shutil.copy(ROOT / "tests/data/ofa_lut_176.csv", "lut.csv")
        (space,) = [step for step in steps(ROOT / "README.md") if step.file == "mnasnet.toml"]
        (folder / "mnasnet.toml").write_text(space.text)
        for command in TAKEN_FOR_GRANTED.strip().splitlines():
            commands.main(shlex.split(command)[1:], prog_name="esm-onnx", standalone_mode=False)
        with (ROOT / "tests/data/ofa_176.csv").open(newline="") as file:
            rows = [{name: [*map(int, row[name])] for name in ("ks", "e", "d")} for row in csv.DictReader(file)]
        (folder / "ofa.jsonl").write_text("".join(json.dumps({**row, "r": [176]}) + "\n" for row in rows))
        length = genome_length(find_space("mobilenetv3"))
        write_accuracy(folder / "accuracy.onnx", takes=("genome", TensorProto.INT64, ["batch", length]))
        shutil.copy(next(Path("written").glob("*.onnx")), "net.onnx")
        shutil.copy("esm.db", "damaged.db")
        damage(folder / "damaged.db", "UPDATE measurements SET started_at = '' WHERE id = 3")
        yield folder


@pytest.fixture
def there(granted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A page's own folder, in which the repository's tools and tests seem to lie, and where MLPs are quick."""
    shutil.copytree(granted, tmp_path, dirs_exist_ok=True)
    for name in ("tests", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{site}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(site), *sys.path])
    monkeypatch.setattr(mlp, "MlpSettings", partial(mlp.MlpSettings, steps=50))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{tmp_path}/"):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_runs(page: Path, there: Path) -> None:
    for step in steps(page):
        if step.file is not None:
            (there / step.file).write_text(step.text)
            continue
        try:
            if not step.in_text:
                run(step.text)
            elif has_options(shlex.split(step.text)[1:]):
                with suppress(click.UsageError):  # for what a part of a command lacks
                    run(step.text)
            else:
                pytest.fail("it has no such option")
        except BaseException as error:
            error.add_note(f"{page.name}: {step.text}")
            raise


def test_every_exception_is_needed() -> None:
    shown = [step.text for page in PAGES for step in steps(page) if step.file is None]
    for pattern, reason in ONLY_READ:
        assert any(re.match(pattern, command) for command in shown), (pattern, reason)
    for pattern, instead, reason in INSTEAD:
        assert any(re.search(pattern, command) for command in shown), (pattern, reason)
        shown = [re.sub(pattern, instead, command) for command in shown]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_at_is_there(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        assert (ROOT / path.rstrip("./")).exists(), path


def test_a_runtime_is_complete_in_forty_lines() -> None:
    (runtime,) = [step for step in steps(ROOT / "docs/new_runtime.md") if step.file == "onnx_reference.py"]
    assert len(runtime.text.splitlines()) <= 40
