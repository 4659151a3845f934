"""From a store to a dataset."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from prediction.made_up import measured

from esm_onnx.architectures import Architecture, Space, find_space, genome_length, sample, to_genome
from esm_onnx.errors import InputError
from esm_onnx.measurement.record import REFERENCE, SUBJECT, Failure, Measurement
from esm_onnx.measurement.store import ACCEPTED, REJECTED, Store
from esm_onnx.measurement.target import Target
from esm_onnx.prediction.assembly import assemble, choose

OTHER = Target("somewhere", {"device": "abacus", "threads": 4})


def test_one_row_for_each_architecture_in_the_order_of_measuring(
    store: Store, tiny: Space, eight: list[Architecture], target: Target
) -> None:
    a, b, c, d, *_ = eight
    measured(store, tiny, target, [(b, 2.0), (a, 1.0)])
    measured(store, tiny, target, [(a, 4.0), (c, 3.0)])
    measured(store, tiny, target, [(b, 99.0), (d, 99.0)], status=REJECTED)
    measured(store, tiny, target, [(d, 99.0)], role=REFERENCE)
    measured(store, tiny, OTHER, [(a, 99.0), (d, 99.0)])
    dataset = assemble(store, tiny, target)
    assert dataset.genomes.tolist() == [list(to_genome(tiny, architecture)) for architecture in (b, a, c)]
    assert dataset.latency_ms.tolist() == [2.0, 2.5, 3.0]
    assert dataset.target == {"name": "somewhere", "facts": {"device": "abacus", "threads": 2}}
    assert dataset.space == tiny
    assert dataset.noise_floor is None


def test_only_those_asked_for_in_the_order_asked(
    store: Store, tiny: Space, eight: list[Architecture], target: Target
) -> None:
    measured(store, tiny, target, [(architecture, 1.0 + i) for i, architecture in enumerate(eight[:4])])
    failed = store.open_session(tiny, target, {"of": "failures"})
    store.append(failed, tiny, Failure(eight[5], "crash", "segmentation fault", 0.0))
    store.close_session(failed, status=ACCEPTED, verdict="")
    dataset = assemble(store, tiny, target, only=[eight[5], eight[3], eight[7], eight[0]])
    assert dataset.latency_ms.tolist() == [4.0, 1.0]


def test_where_nothing_was_measured_there_are_no_rows(
    store: Store, tiny: Space, eight: list[Architecture], target: Target
) -> None:
    for dataset in (assemble(store, tiny, target), assemble(store, tiny, target, only=eight)):
        assert len(dataset) == 0
        assert dataset.genomes.shape == (0, genome_length(tiny))
        assert dataset.depths.tolist() == []


def test_the_noise_floor_is_that_of_the_references(
    store: Store, tiny: Space, eight: list[Architecture], target: Target
) -> None:
    rng = np.random.default_rng(0)
    references = [Measurement(eight[2], REFERENCE, (7 * (1 + 0.02 * x),), 0.0) for x in rng.standard_normal(400)]
    store.add(tiny, target, {"of": "references"}, [*references, Measurement(eight[0], SUBJECT, (5.0,), 0.0)])
    assert assemble(store, tiny, target).noise_floor == pytest.approx(0.02, rel=0.1)


def test_the_only_space_and_target_need_no_choice(
    store: Store, tiny: Space, eight: list[Architecture], target: Target
) -> None:
    with pytest.raises(InputError, match="no accepted measurement: measure with") as caught:
        choose(store)
    assert caught.value.file == store.path
    measured(store, tiny, target, [(eight[0], 1.0)])
    measured(store, tiny, OTHER, [(eight[0], 1.0)], status=REJECTED)
    assert (choose(store).space, choose(store).target, choose(store).measurements) == (tiny, target, 1)


def test_more_than_one_needs_a_choice(store: Store, tiny: Space, eight: list[Architecture], target: Target) -> None:
    (resnet,) = sample(find_space("resnet"), 1, strategy="random", rng=Random(0))
    measured(store, tiny, target, [(eight[0], 1.0)])
    measured(store, tiny, OTHER, [(eight[0], 1.0), (eight[1], 2.0)])
    measured(store, find_space("resnet"), OTHER, [(resnet, 3.0)])
    assert choose(store, space=find_space("resnet")).target == OTHER
    assert choose(store, space=tiny, target=OTHER.digest[:8]).measurements == 2
    assert choose(store, target=target.digest).measurements == 1
    with pytest.raises(
        InputError, match=r"more than one .*tiny on 'somewhere' \([0-9a-f]{8}\): 1; tiny on .*: 2; resn"
    ):
        choose(store)
    with pytest.raises(InputError, match=r"more than one .* of space 'tiny' on target 'somewhere'"):
        choose(store, space=tiny, target="somewhere")
    with pytest.raises(InputError, match="no measurements of any space on target 'elsewhere'"):
        choose(store, target="elsewhere")
    with pytest.raises(InputError, match="no measurements of space 'tiny'"):
        choose(store, space=replace(tiny, depths=((1,), (1,))))
