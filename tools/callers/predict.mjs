// Predicts genomes, a JSON list a line, in Node with onnxruntime-node.
//     npm install && node predict.mjs predictor.onnx < genomes.jsonl
import { readFileSync } from "node:fs";
import { InferenceSession, Tensor } from "onnxruntime-node";

const session = await InferenceSession.create(process.argv[2]);
const genomes = readFileSync(0, "utf8").trim().split("\n").map((line) => JSON.parse(line));
const places = BigInt64Array.from(genomes.flat(), BigInt);
const genome = new Tensor("int64", places, [genomes.length, genomes[0].length]);
const { latency_ms, lower_ms, upper_ms } = await session.run({ genome });
genomes.forEach((_, i) => console.log(latency_ms.data[i], lower_ms.data[i], upper_ms.data[i]));
