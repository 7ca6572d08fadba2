import { assert, assertEquals } from "@std/assert";
import { ACTIVATIONS } from "../../lib/ops/activations.ts";
import { input } from "../../lib/ops/input.ts";
import { createGraph } from "../../lib/ops/value.ts";
import { programOf } from "../../lib/program/program.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { testOnDevices } from "../devices.ts";

const X = [-12, -3.5, -1, -0.3, 0.4, 2, 7, 12];

/** `ACT2FN[name](torch.tensor(X))` of transformers. */
const EXPECTED: Readonly<Record<string, readonly number[]>> = {
  gelu: [0.0, -0.0008143336, -0.1586553, -0.1146266, 0.2621687, 1.9545, 7.0, 12.0],
  gelu_10: [0.0, -0.0008143336, -0.1586553, -0.1146266, 0.2621687, 1.9545, 7.0, 10.0],
  gelu_accurate: [0, -0.0006161481, -0.158808, -0.1146291, 0.2621612, 1.954598, 7.0, 12.0],
  gelu_fast: [0, -0.0006161481, -0.158808, -0.1146291, 0.2621612, 1.954598, 7.0, 12.0],
  gelu_new: [0, -0.0006161481, -0.158808, -0.1146291, 0.2621612, 1.954598, 7.0, 12.0],
  gelu_python: [0, -0.0008142292, -0.1586553, -0.1146266, 0.2621687, 1.9545, 7.0, 12.0],
  gelu_python_tanh: [0, -0.0006161481, -0.158808, -0.1146291, 0.2621612, 1.954598, 7.0, 12.0],
  gelu_pytorch_tanh: [0, -0.0006161481, -0.158808, -0.1146291, 0.2621612, 1.954598, 7.0, 12.0],
  hardswish: [0, 0, -0.3333333, -0.135, 0.2266667, 1.666667, 7.0, 12.0],
  laplace: [0.0, 0.0, 0.0, 0.0001784265, 0.1381508, 0.9999977, 1.0, 1.0],
  leaky_relu: [-0.12, -0.035, -0.01, -0.003, 0.4, 2.0, 7.0, 12.0],
  linear: [-12.0, -3.5, -1.0, -0.3, 0.4, 2.0, 7.0, 12.0],
  mish: [-7.373032e-05, -0.1040957, -0.3034014, -0.1511332, 0.2890305, 1.943959, 6.999989, 12.0],
  prelu: [-3.0, -0.875, -0.25, -0.075, 0.4, 2.0, 7.0, 12.0],
  quick_gelu: [
    -1.618642e-08,
    -0.009033444,
    -0.1542042,
    -0.1125159,
    0.2655669,
    1.935659,
    6.999953,
    12.0,
  ],
  relu: [0.0, 0.0, 0.0, 0.0, 0.4, 2.0, 7.0, 12.0],
  relu2: [0.0, 0.0, 0.0, 0.0, 0.16, 4.0, 49.0, 144.0],
  relu6: [0.0, 0.0, 0.0, 0.0, 0.4, 2.0, 6.0, 6.0],
  sigmoid: [
    6.144174e-06,
    0.02931223,
    0.2689414,
    0.4255575,
    0.5986876,
    0.880797,
    0.999089,
    0.9999938,
  ],
  silu: [
    -7.373009e-05,
    -0.1025928,
    -0.2689414,
    -0.1276672,
    0.2394751,
    1.761594,
    6.993623,
    11.99993,
  ],
  sqrtsoftplus: [
    0.002478748,
    0.1724831,
    0.5596979,
    0.7445504,
    0.9555183,
    1.458399,
    2.645924,
    3.464103,
  ],
  swish: [
    -7.373009e-05,
    -0.1025928,
    -0.2689414,
    -0.1276672,
    0.2394751,
    1.761594,
    6.993623,
    11.99993,
  ],
  tanh: [-1.0, -0.9981779, -0.7615942, -0.2913126, 0.379949, 0.9640276, 0.9999983, 1.0],
  xielu: [2.808599, 0.2761347, -0.205409, -0.1173135, 0.328125, 4.203125, 42.73828, 121.3125],
};

testOnDevices("activations have transformers' names and values", async (device) => {
  assertEquals(Object.keys(ACTIVATIONS).sort(), Object.keys(EXPECTED).sort());
  const graph = createGraph(), x = input(graph, "x", { shape: [X.length], dtype: "f32" });
  const all = Object.entries(ACTIVATIONS).map(([name, act]) => [name, act(x)] as const);
  const executable = await device.compile(programOf(Object.fromEntries(all)));
  const outputs = await executable.run({ x: tensor(Float32Array.from(X)) });
  for (const [name, wanted] of Object.entries(EXPECTED)) {
    const found = await toFloat32(outputs[name]);
    wanted.forEach((value, i) => {
      const far = Math.abs(found[i] - value) / Math.max(1, Math.abs(value));
      assert(far < 2e-6, `${name}(${X[i]}) is ${value}; found ${found[i]}`);
    });
  }
});
