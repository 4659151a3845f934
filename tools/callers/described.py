"""A predictor for tools that search in boxes of integers: what they may choose, and the genomes that this gives."""

import json

import numpy as np
import onnxruntime


def by_depth(options):
    """The index of the option that each depth decides: options count from 0 in the order of the depths."""
    options = {int(depth): option for depth, option in options.items()}
    different = list(dict.fromkeys(options[depth] for depth in sorted(options)))
    return {depth: different.index(option) for depth, option in options.items()}


class Described:
    """A choice has the option of each place of the genome, and behind them the depth of each unit, all by index.

    Attributes:
        sizes: how many options each column of a choice has.
    """

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path)
        space = json.loads(self.session.get_modelmeta().custom_metadata_map["esm_onnx"])["space"]
        block, unit, network = ([*map(len, space.get(part, {}).values())] for part in ("block", "unit", "network"))
        coupled = [by_depth(options) for options in space.get("coupled", {}).values()]
        # for each unit, by the index of its depth, the options that the depth decides
        self.coupled = [[[places[depth] for places in coupled] for depth in depths] for depths in space["depth"]]
        self.depths, self.head, self.of_block, self.free = space["depth"], len(network), len(block), len(block + unit)
        self.width = self.free + len(coupled)
        places = network + (block + unit + [1] * len(coupled)) * sum(map(max, self.depths))
        self.sizes = np.array(places + [len(depths) for depths in self.depths])

    def genomes(self, choices):
        """Genomes [n, length] of choices [n, columns]: blocks beyond a depth are absent, a unit shares options."""
        genomes = np.array(choices[:, : -len(self.depths)], np.int64)
        at = self.head
        for depths, coupled, chosen in zip(self.depths, self.coupled, choices[:, -len(self.depths) :].T, strict=True):
            unit = genomes[:, at : at + max(depths) * self.width].reshape(len(genomes), max(depths), self.width)
            unit[:, :, self.of_block :] = unit[:, :1, self.of_block :]
            unit[:, :, self.free :] = np.array(coupled)[chosen][:, None]
            unit[np.arange(max(depths)) >= np.array(depths)[chosen][:, None]] = -1
            genomes[:, at : at + max(depths) * self.width] = unit.reshape(len(genomes), -1)
            at += max(depths) * self.width
        return genomes

    def objectives(self, genomes):
        """Latency in ms, and capacity below nothing, both to be small; one's own accuracy belongs in capacity's place.

        Capacity: the sum over all blocks of the indices of their options, each from 1.
        """
        (latency_ms,) = self.session.run(["latency_ms"], {"genome": genomes})
        return np.stack([latency_ms, -(genomes + 1).sum(axis=1)], axis=1)
