import { assert } from "@std/assert";
import { attention } from "../../lib/ops/attention.ts";
import { composedAttention } from "../../lib/ops/attention-decomposition.ts";
import { mul } from "../../lib/ops/elementwise.ts";
import { input } from "../../lib/ops/input.ts";
import { createGraph } from "../../lib/ops/value.ts";
import { programOf } from "../../lib/program/program.ts";
import { randomNormal } from "../../lib/tensor/random.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { testOnDevices } from "../devices.ts";

const SIZES = { b: 2, t: 3, s: 7, h: 6, g: 2, d: 5 };

testOnDevices("composed attention is attention with a bias and dropout", async (device) => {
  const { b, t, s, h, g, d } = SIZES;
  const graph = createGraph();
  const values: Record<string, Tensor> = {};
  const floats = (name: string, shape: number[]) => {
    const size = shape.reduce((n, x) => n * x, 1);
    values[name] = tensor(randomNormal(size, { seed: 3, stream: size, std: 1 }), { shape });
    return input(graph, name, { shape, dtype: "f32" });
  };
  const ints = (name: string, data: number[], shape: number[]) => {
    values[name] = tensor(Int32Array.from(data), { shape });
    return input(graph, name, { shape, dtype: "i32" });
  };
  const q = floats("q", [b, t, h, d]), k = floats("k", [b, s, g, d]), v = floats("v", [b, s, g, d]);
  const bias = floats("bias", [h, t, s]);
  const rest = {
    k,
    v,
    querySegments: ints("query", [1, 1, 1, 1, 1, 2], [b, t]),
    keySegments: ints("key", [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2], [b, s]),
    offset: ints("offset", [3], [1]),
    causal: true,
    window: 4,
    scale: 0.7,
  };
  const dropout = (x: typeof q) => x;
  const program = programOf({
    fused: attention(q, rest),
    same: composedAttention(q, { ...rest, dropout }),
    biased: composedAttention(q, { ...rest, bias, dropout }),
    halved: composedAttention(q, { ...rest, dropout: (p) => mul(p, 0.5) }),
  });
  const executable = await device.compile(program);
  const outputs = await executable.run(values);
  const [fused, same, biased, halved, bs, qs, ks, vs] = await Promise.all(
    [
      outputs.fused,
      outputs.same,
      outputs.biased,
      outputs.halved,
      values.bias,
      values.q,
      values.k,
      values.v,
    ]
      .map(async (x) => await x.data() as Float32Array),
  );
  const close = (x: number, y: number) => assert(Math.abs(x - y) < 1e-4, `${x} ${y}`);
  fused.forEach((x, i) => close(same[i], x));
  fused.forEach((x, i) => close(halved[i], x / 2));
  // By hand: row 0, query 1, which is key 4 and sees keys 1 to 4.
  for (let head = 0; head < h; head++) {
    const group = Math.floor(head / (h / g)), keys = [1, 2, 3, 4];
    const scores = keys.map((j) => {
      let sum = 0;
      for (let i = 0; i < d; i++) sum += qs[(h + head) * d + i] * ks[(j * g + group) * d + i];
      return 0.7 * sum + bs[(head * t + 1) * s + j];
    });
    const total = scores.reduce((n, x) => n + Math.exp(x), 0);
    for (let i = 0; i < d; i++) {
      const y = keys.reduce(
        (n, j, at) => n + Math.exp(scores[at]) / total * vs[(j * g + group) * d + i],
        0,
      );
      close(biased[(h + head) * d + i], y);
    }
  }
});
