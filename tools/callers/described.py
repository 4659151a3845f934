"""A predictor for tools that search in boxes of integers: what they may choose, and the genomes that this gives."""

import json

import numpy as np
import onnxruntime


class Described:
    """A choice has the option of each place of the genome, and behind them the depth of each unit, all by index.

    Attributes:
        sizes: how many options each column of a choice has.
    """

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path)
        space = json.loads(self.session.get_modelmeta().custom_metadata_map["esm_onnx"])["space"]
        block, unit, network = ([*map(len, space.get(part, {}).values())] for part in ("block", "unit", "network"))
        self.depths, self.head, self.of_block, self.width = space["depth"], len(network), len(block), len(block + unit)
        places = network + (block + unit) * sum(map(max, self.depths))
        self.sizes = np.array(places + [len(depths) for depths in self.depths])

    def genomes(self, choices):
        """Genomes [n, length] of choices [n, columns]: blocks beyond a depth are absent, a unit shares options."""
        genomes = np.array(choices[:, : -len(self.depths)], np.int64)
        at = self.head
        for depths, chosen in zip(self.depths, choices[:, -len(self.depths) :].T, strict=True):
            unit = genomes[:, at : at + max(depths) * self.width].reshape(len(genomes), max(depths), self.width)
            unit[:, :, self.of_block :] = unit[:, :1, self.of_block :]
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
