import { assert, assertEquals, assertLess, assertRejects } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { replaceLoraWeightsLoftq } from "../../lib/adapters/lora/loftq.ts";
import { trainableLeaves } from "../../lib/adapters/leaves.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { GraftError } from "../../lib/errors.ts";
import { ia3Config } from "../../lib/methods/ia3.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { type ModelGraph, withParameters } from "../../lib/model/model-graph.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";
import { testOnDevices } from "../devices.ts";
import { goldenBase } from "./bases.ts";

/** A weight in q8_0, with steps so coarse that something is lost. */
async function q8(stored: Tensor): Promise<Tensor> {
  const values = await toFloat32(stored), bytes = new Uint8Array(values.length / 32 * 34);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < values.length / 32; block++) {
    const own = values.subarray(block * 32, block * 32 + 32);
    const scale = Math.max(...own.map(Math.abs)) / 5;
    view.setUint16(block * 34, new Uint16Array(Float16Array.of(scale).buffer)[0], true);
    own.forEach((x, i) => view.setInt8(block * 34 + 2 + i, Math.round(x / scale)));
  }
  return { ...stored, dtype: "q8_0", data: () => Promise.resolve(bytes) };
}

const PATH = /layers\.\d\.self_attn\.[qk]_proj\.weight$/;

async function quantizedBase(base: ModelGraph): Promise<ModelGraph> {
  const weights = [...base.parameters].filter(([name]) => PATH.test(name));
  return withParameters(
    base,
    new Map(await Promise.all(weights.map(async ([name, w]) => [name, await q8(w)] as const))),
  );
}

const inputs = { inputIds: [[3, 1, 4, 15, 9, 26, 5]] };

async function logits(model: AnyModel): Promise<Float32Array> {
  return await toFloat32((await forward(model, inputs)).logits);
}

function distance(a: Float32Array, b: Float32Array): number {
  return Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]) ** 2, 0));
}

testOnDevices(
  "a LoRA makes up for what quantization lost, all of it at full rank",
  async (device) => {
    const from = await goldenBase("llama", device), base = await quantizedBase(from);
    const whole = await logits(from), lost = distance(await logits(base), whole);
    assert(lost > 1e-2);
    const begun = (r: number) =>
      getPeftModel(
        base,
        loraConfig({ r, loraAlpha: r, targetModules: ["q_proj", "k_proj", "o_proj"] }),
      );
    const some = await replaceLoraWeightsLoftq(begun(12), { from });
    assertLess(distance(await logits(some), whole), lost / 2);
    const all = await replaceLoraWeightsLoftq(begun(40), { from });
    assertLess(
      distance(await logits(all), whole),
      1e-4 * distance(whole, new Float32Array(whole.length)),
    );

    // What the callback does not want stays as it was, as does what is not quantized.
    const asked: string[] = [], start = begun(12);
    const kept = await replaceLoraWeightsLoftq(start, {
      from,
      callback(model, path) {
        asked.push(path);
        return model !== start && path.includes("layers.1") && path.endsWith("k_proj");
      },
    });
    assertEquals(asked.length, 4);
    const [before, after, full] = [start, kept, some].map(trainableLeaves);
    for (const [name, value] of after) {
      const same = name.includes("layers.1.self_attn.k_proj") ? full : before;
      assertEquals(await value.data(), await same.get(name)!.data(), name);
    }
  },
);

Deno.test("what has no quantized LoRA is refused", async () => {
  const from = await goldenBase("llama"), base = await quantizedBase(from);
  const config = loraConfig({ r: 4, targetModules: ["q_proj"] });
  const cases: [string, () => Promise<unknown>][] = [
    ["LOFTQ_QUANTIZED", () => replaceLoraWeightsLoftq(getPeftModel(from, config), { from })],
    [
      "LOFTQ_QUANTIZED",
      () => replaceLoraWeightsLoftq(getPeftModel(base, ia3Config()), { from }),
    ],
    [
      "LOFTQ_SHAPE",
      async () =>
        replaceLoraWeightsLoftq(getPeftModel(base, config), { from: await goldenBase("gpt2") }),
    ],
    [
      "LOFTQ_OPTION",
      () => replaceLoraWeightsLoftq(getPeftModel(base, config), { from: 3 } as never),
    ],
  ];
  for (const [code, attempt] of cases) {
    assertEquals((await assertRejects(attempt, GraftError)).code, code);
  }
});
