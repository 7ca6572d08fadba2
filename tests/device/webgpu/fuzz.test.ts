import { assert, assertEquals } from "@std/assert";
import { createWebGpuDevice } from "../../../lib/device/webgpu/mod.ts";
import type { Value } from "../../../lib/ops/value.ts";
import { printProgram } from "../../../lib/program/program.ts";
import { sizeOf } from "../../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../../lib/tensor/tensor.ts";
import { interpret } from "../interpret.ts";
import { randomOf, randomProgram } from "./random-program.ts";

const FIRST = Number(Deno.env.get("FUZZ_FIRST") ?? 1);
const COUNT = Number(Deno.env.get("FUZZ_COUNT") ?? 16);

Deno.test("random programs give what an interpreter gives, state included", async () => {
  // The kernels for processors and those for GPUs take turns.
  using soft = await createWebGpuDevice({ debug: true, software: true });
  using hard = await createWebGpuDevice({ debug: true, software: false });
  for (let seed = FIRST; seed < FIRST + COUNT; seed++) {
    const device = seed % 2 ? soft : hard;
    const random = randomOf(seed + 1000);
    const program = randomProgram(seed, 4 + seed % 40);
    const contents = (v: Value) =>
      Array.from({ length: sizeOf(v.shape) }, () => Math.fround(random() * 2 - 1));
    const values = Object.fromEntries([...program.inputs].map(([n, v]) => [n, contents(v)]));
    const inputs: Record<string, Tensor> = {};
    for (const [n, v] of program.inputs) {
      if (n !== "s") inputs[n] = tensor(Float32Array.from(values[n]), { shape: v.shape });
    }
    const { shape } = program.inputs.get("s")!;
    using state = device.createState({ s: { shape, dtype: "f32" } });
    await state.write("s", tensor(Float32Array.from(values.s), { shape }));
    const executable = await device.compile(program);
    let current: Readonly<Record<string, readonly number[]>> = values;
    for (let run = 0; run < 2; run++) {
      const expected = interpret(program, current);
      const read = [...program.outputs.keys()];
      const got = await executable.run(inputs, { state, read });
      for (const name of read) {
        const a = await got[name].data();
        const e = expected[name];
        assertEquals(a.length, e.length);
        for (let i = 0; i < e.length; i++) {
          const error = Math.abs(Number(a[i]) - e[i]);
          assert(
            error <= 2e-5 * Math.max(1, Math.abs(e[i])),
            `seed ${seed}, run ${run}: ${name}[${i}] is ${a[i]}, not ${e[i]}\n${
              printProgram(program)
            }`,
          );
        }
      }
      current = { ...current, s: expected.next };
    }
  }
});
