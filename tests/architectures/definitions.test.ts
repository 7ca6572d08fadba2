import { assert, assertEquals } from "@std/assert";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { architectureOf } from "../../lib/architectures/mod.ts";
import { generate, type Generation } from "../../lib/generation/generate.ts";
import type { Device } from "../../lib/device/device.ts";
import { createModelGraph, type ModelGraph, structureOf } from "../../lib/model/model-graph.ts";
import { taskOf } from "../../lib/model/task-of.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import cases from "./definitions.golden.json" with { type: "json" };

type Rows = readonly (readonly number[])[];

const PROMPTS: Rows = [[7, 3, 9, 12, 4], [9, 5, 11]];

type Outputs = Readonly<
  Record<string, { readonly shape: readonly number[]; readonly values: readonly number[] }>
>;

interface Case {
  readonly config: Readonly<Record<string, unknown>> & { readonly architectures: string[] };
  /** Names in torch's order. */
  readonly parameters: readonly string[];
  readonly inputs: Readonly<Record<string, Rows | undefined>>;
  /** What it writes after {@link PROMPTS}. */
  readonly generated?: Rows;
  readonly outputs: Outputs;
  /** The same with a LoRA on the linear layers of its body. */
  readonly adapted: Outputs;
}

/** The values of a parameter, as the script that wrote the golden file computes them. */
function fill(name: string, shape: readonly number[]): Tensor {
  const seed = [...name].reduce((sum, c) => sum + c.charCodeAt(0), 0) % 97;
  const size = shape.reduce((n, d) => n * d, 1);
  const values = Float32Array.from({ length: size }, (_, i) => 0.6 * Math.sin(1.3 * i + seed));
  return tensor(values, { shape });
}

function modelOf({ config }: Case, device: Device): ModelGraph {
  const architecture = architectureOf(config), taskType = taskOf(architecture, config);
  const { shapes, tied } = structureOf({ architecture, config, taskType });
  const parameters = new Map(
    [...shapes].filter(([name]) => !tied.has(name)).map(([name, s]) => [name, fill(name, s)]),
  );
  return createModelGraph(architecture, { config, parameters, device });
}

/** With a LoRA on the linear layers of the body, whose leaves have the values of their names. */
async function withLora(base: ModelGraph): Promise<PeftModel> {
  const config = loraConfig({
    r: 2,
    loraAlpha: 3,
    targetModules: "all-linear",
    excludeModules: ".*(classifier|score|qa_outputs|head|pooler).*",
  });
  const model = getPeftModel(base, config);
  const filled = [...getAdapterStateDict(model)].map(([key, { shape }]) =>
    [key, fill(key.replace(/^base_model\.model\.|\.weight$/g, ""), shape)] as const
  );
  return (await setAdapterStateDict(model, new Map(filled))).model;
}

async function assertOutputs(
  found: Awaited<ReturnType<typeof forward>>,
  { inputs }: Case,
  outputs: Outputs,
): Promise<void> {
  const mask =
    ("decoder_attention_mask" in inputs ? inputs.decoder_attention_mask : inputs.attention_mask)!
      .flat();
  for (const [key, { shape, values }] of Object.entries(outputs)) {
    const got = found[named(key) as keyof typeof found] as Tensor;
    assertEquals(got.shape, shape, key);
    const data = await got.data() as Float32Array;
    const rowwise = shape[1] === mask.length / 2;
    let largest = 0, apart = 0;
    values.forEach((x, i) => {
      if (rowwise && !mask[Math.floor(i / (values.length / mask.length))]) return;
      largest = Math.max(largest, Math.abs(x));
      apart = Math.max(apart, Math.abs(x - data[i]));
    });
    assert(apart < 2e-5 * largest, `${key}: ${apart} of ${largest}`);
  }
}

const named = (word: string) => word.replace(/_(\w)/g, (_, c: string) => c.toUpperCase());

for (const entry of cases as unknown as readonly Case[]) {
  const { config, outputs, inputs } = entry;
  const name = `${config.architectures[0]}${"feed_forward_proj" in config ? ", gated" : ""}`;
  testOnceOnWebGpu(`${name} gives what transformers gives`, async (device) => {
    const model = modelOf(entry, device);
    // XLM-RoBERTa and CamemBERT make their heads before the body; no adapter draws in between.
    const { bodyPath } = model.architecture, own = entry.parameters;
    const first = own.findIndex((n) => n.startsWith(`${bodyPath}.`));
    const parameters = first > 0 ? [...own.slice(first), ...own.slice(0, first)] : own;
    assertEquals([...model.shapes.keys()].filter((n) => !model.tied.has(n)), parameters);
    const batch = Object.entries(inputs).map(([key, rows]) => [named(key), rows]);
    const given = Object.fromEntries(batch);
    await assertOutputs(await forward(model, given), entry, outputs);
    await assertOutputs(await forward(await withLora(model), given), entry, entry.adapted);
    if (!entry.generated) return;
    const options = { maxNewTokens: entry.generated[0].length, eosTokenId: [] };
    const texts = await generate(model, PROMPTS, options) as readonly Generation[];
    assertEquals(texts.map(({ tokenIds }) => [...tokenIds]), entry.generated);
  });
}
