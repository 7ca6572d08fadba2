/**
 * Graft on WebGPU, as a contestant.
 *
 * @module
 */
import { openDevice } from "../../lib/device/open.ts";
import { mul, sub } from "../../lib/ops/elementwise.ts";
import { relu } from "../../lib/ops/functions.ts";
import { input } from "../../lib/ops/input.ts";
import { matmul } from "../../lib/ops/matmul.ts";
import { mean } from "../../lib/ops/reduce.ts";
import { gradients } from "../../lib/program/grad.ts";
import { trace } from "../../lib/program/program.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { compete, LEARNING_RATE, type Matrix } from "./workload.ts";

const device = await openDevice("webgpu-fallback");
const put = ({ data, shape }: Matrix) => tensor(data, { shape });

await compete({
  name: "graft",
  versions: {},
  async matmul(work, operands) {
    const program = trace((graph) => {
      const weight = (name: string, { shape }: Matrix) =>
        input(graph, name, { shape, dtype: "f32", role: "weight" });
      return { c: matmul(weight("a", operands.a), weight("b", operands.b), work) };
    });
    const executable = await device.compile(program);
    const inputs = { a: put(operands.a), b: put(operands.b) };
    return async () => {
      const { c } = await executable.run(inputs);
      return await c.data() as Float32Array;
    };
  },
  async train({ x, y, w1, w2 }) {
    const specs = {
      w1: { shape: w1.shape, dtype: "f32" as const },
      w2: { shape: w2.shape, dtype: "f32" as const },
    };
    const program = trace((graph) => {
      const data = (name: string, { shape }: Matrix) =>
        input(graph, name, { shape, dtype: "f32", role: "weight" });
      const first = input(graph, "w1", { ...specs.w1, role: "state" });
      const second = input(graph, "w2", { ...specs.w2, role: "state" });
      const output = matmul(relu(matmul(data("x", x), first)), second);
      const difference = sub(output, data("y", y));
      const loss = mean(mul(difference, difference));
      const [g1, g2] = gradients(loss, [first, second]);
      return {
        loss,
        "next.w1": sub(first, mul(g1, LEARNING_RATE)),
        "next.w2": sub(second, mul(g2, LEARNING_RATE)),
      };
    }, { updates: { w1: "next.w1", w2: "next.w2" } });
    const executable = await device.compile(program);
    const state = device.createState(specs);
    const inputs = { x: put(x), y: put(y) };
    const reset = async () => {
      await state.write("w1", put(w1));
      await state.write("w2", put(w2));
    };
    await reset();
    return {
      reset,
      async step() {
        const { loss } = await executable.run(inputs, { state });
        return (await loss.data())[0] as number;
      },
      weights: async () => {
        const first = await state.read("w1"), second = await state.read("w2");
        return [await first.data() as Float32Array, await second.data() as Float32Array] as const;
      },
    };
  },
});
