import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import type { ForwardInputs } from "../../lib/adapters/batch.ts";
import { forward, type ForwardOutputs } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import { architectureOf, ARCHITECTURES } from "../../lib/architectures/mod.ts";
import type { Device } from "../../lib/device/device.ts";
import { UnsupportedError, ValueError } from "../../lib/errors.ts";
import { generate, type Generation } from "../../lib/generation/generate.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import {
  createModelGraph,
  type ModelGraph,
  positionLimit,
  structureOf,
} from "../../lib/model/model-graph.ts";
import { taskOf, tasksOf } from "../../lib/model/task-of.ts";
import { mul, sub } from "../../lib/ops/elementwise.ts";
import { constant } from "../../lib/ops/constant.ts";
import { sum } from "../../lib/ops/reduce.ts";
import type { Objective } from "../../lib/tasks/objective.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { train } from "../../lib/training/train.ts";
import { testDevice, testOnceOnWebGpu, testOnCpu } from "../devices.ts";
import { assertSketch, fill, leafOf, SHARE, type Sketch, valuesOf } from "../golden-values.ts";
import cases from "./definitions.golden.json" with { type: "json" };
import vision from "./vision.golden.json" with { type: "json" };

type Rows = readonly (readonly number[])[];

const PROMPTS: Rows = [[7, 3, 9, 12, 4], [9, 5, 11]];

/** Relative bound of losses. */
const LOSSES = 1e-5;

type Outputs = Readonly<
  Record<string, { readonly shape: readonly number[]; readonly values: readonly number[] }>
>;

type Sketches = Readonly<Record<string, Sketch>>;

type Batch = Readonly<Record<string, Rows | undefined>>;

interface Case {
  readonly config: Readonly<Record<string, unknown>> & { readonly architectures: string[] };
  /** Names in torch's order. */
  readonly parameters: readonly string[];
  /** With padding on one side, and with longer rows and no mask. */
  readonly batches: { readonly right: Batch; readonly left: Batch; readonly none: Batch };
  /** What it writes after {@link PROMPTS}. */
  readonly generated?: Rows;
  /** Of the base, for the batch that is padded on the right. */
  readonly outputs: Outputs;
  /** Modules with a LoRA: all linear layers of the body. */
  readonly layers: readonly string[];
  /** Parameters of what PEFT trains and saves as a whole for the task. */
  readonly heads: readonly string[];
  /** With the adapter, for each batch. */
  readonly adapted: Readonly<Record<keyof Case["batches"], Sketches>>;
  /** Of the loss of the first batch, for A and B of each layer and then for the heads. */
  readonly gradients: readonly Sketch[];
  /** Before each step of AdamW, one with each batch that has labels. */
  readonly losses: readonly number[];
}

function modelOf({ config }: Case, device: Device): ModelGraph {
  const architecture = architectureOf(config), taskType = taskOf(architecture, config);
  const { shapes, tied } = structureOf({ architecture, config, taskType });
  const parameters = new Map(
    [...shapes].filter(([name]) => !tied.has(name)).map(([name, s]) => [name, fill(name, s)]),
  );
  return createModelGraph(architecture, { config, parameters, device });
}

/** PEFT's keys of the adapter, in the order of the gradients. */
function keysOf({ layers, heads }: Case): readonly string[] {
  const leaves = layers.flatMap((layer) =>
    ["A", "B"].map((leaf) => `${layer}.lora_${leaf}.weight`)
  );
  return [...leaves, ...heads].map((key) => `base_model.model.${key}`);
}

/** With a LoRA on the linear layers of the body; all that it saves has the values of its keys. */
async function withLora(base: ModelGraph, entry: Case): Promise<PeftModel> {
  const model = getPeftModel(
    base,
    loraConfig({
      taskType: base.taskType,
      r: 2,
      loraAlpha: 3,
      targetModules: "all-linear",
      excludeModules: ".*(classifier|score|qa_outputs|head|pooler).*",
    }),
  );
  const saved = getAdapterStateDict(model);
  assertEquals([...saved.keys()].sort(), [...keysOf(entry)].sort());
  const filled = new Map([...saved].map(([key, { shape }]) => [key, fill(key, shape)]));
  return (await setAdapterStateDict(model, filled)).model;
}

const named = (word: string) => word.replace(/_(\w)/g, (_, c: string) => c.toUpperCase());

/** A batch as `forward` takes it. */
function given(batch: Batch): ForwardInputs & { readonly inputIds: Rows } {
  return Object.fromEntries(
    Object.entries(batch).map(([key, rows]) => [named(key), rows]),
  ) as never;
}

/** Whether each number of an output is of a token, and not of padding. */
function keptOf(key: string, shape: readonly number[], batch: Batch): (i: number) => boolean {
  const decodes = batch.decoder_input_ids && key !== "encoder_last_hidden_state";
  const mask = decodes ? batch.decoder_attention_mask : batch.attention_mask;
  const isOfTokens = key !== "pooler_output" && shape[1] === mask?.[0].length;
  if (!mask || !isOfTokens) return () => true;
  const width = shape.slice(2).reduce((n, d) => n * d, 1), flat = mask.flat();
  return (i) => flat[Math.floor(i / width)] === 1;
}

async function assertOutputs(
  found: ForwardOutputs,
  batch: Batch,
  outputs: Outputs,
): Promise<void> {
  for (const [key, { shape, values }] of Object.entries(outputs)) {
    const got = found[named(key) as keyof typeof found] as Tensor;
    assertEquals(got.shape, shape, key);
    const data = await got.data() as Float32Array, kept = keptOf(key, shape, batch);
    const seen = values.map((x, i) => kept(i) ? [Math.abs(x), Math.abs(x - data[i])] : [0, 0]);
    const [largest, apart] = [0, 1].map((at) => Math.max(...seen.map((pair) => pair[at])));
    assert(apart < SHARE * largest, `${key}: ${apart} of ${largest}`);
  }
}

/** Compares outputs at tokens with their sketches. */
async function assertSketches(
  found: ForwardOutputs,
  { batch, sketches }: { readonly batch: Batch; readonly sketches: Sketches },
): Promise<void> {
  for (const [key, sketch] of Object.entries(sketches)) {
    const { data, shape } = found[named(key) as keyof typeof found] as Tensor;
    const kept = keptOf(key, shape, batch);
    const values = (await data() as Float32Array).map((x, i) => kept(i) ? x : 0);
    assertSketch(values, sketch, { what: key });
  }
}

/** How far hidden states are from fixed numbers, for models without a head. */
const distance: Objective = {
  name: "distance",
  outputs: ["lastHiddenState"],
  inputs: () => [],
  prepare({ rows, segments, parts }) {
    const mask = parts.decoderInputIds
      ? parts.decoderAttentionMask?.data ??
        new Int32Array(parts.decoderInputIds.data.length).fill(1)
      : segments;
    const kept = Float32Array.from(mask);
    return {
      labels: { kept: tensor(kept, { shape: [rows, mask.length / rows, 1] }) },
      count: kept.reduce((n, x) => n + x, 0),
    };
  },
  loss({ lastHiddenState: h }, { kept }) {
    const wanted = [...valuesOf("distance", sizeOf(h.shape))];
    const off = sub(h, constant(h.graph, wanted, { shape: h.shape }));
    return mul(sum(mul(mul(off, off), kept)), 1 / h.shape[2]);
  },
};

async function assertTraining(model: PeftModel, entry: Case): Promise<void> {
  const objective = model.base.taskType === "FEATURE_EXTRACTION" ? distance : undefined;
  const batches = Object.values(entry.batches).map(given)
    .filter((batch) => objective || batch.labels || batch.startPositions);
  const { gradients } = await computeGradients(model, batches[0], { objective });
  const scale = Math.max(...entry.gradients.map(([largest]) => largest));
  for (const [i, key] of keysOf(entry).entries()) {
    const data = await gradients.get(leafOf(model, key))!.data() as Float32Array;
    assertSketch(data, entry.gradients[i], { what: `gradient of ${key}`, scale });
  }
  const { history } = await train(model, batches, {
    learningRate: 1e-2,
    weightDecay: 0.1,
    epsilon: 1e-5,
    dropout: false,
    objective,
  });
  entry.losses.forEach((loss, i) => {
    const far = Math.abs(history[i].loss - loss) / loss;
    assert(far < LOSSES, `loss ${i}: ${history[i].loss} instead of ${loss}`);
  });
}

const structures = new Set<string>();

/** Whether a case is the first of its family, or of its task on a kind of body. */
function isNewStructure({ config, batches }: Case): boolean {
  const architecture = architectureOf(config), isCausal = "CAUSAL_LM" in architecture.heads;
  const kind = `${"decoder_input_ids" in batches.right} ${isCausal}`;
  const all = [architecture.name, `${taskOf(architecture, config)} ${kind}`];
  const isNew = all.some((structure) => !structures.has(structure));
  for (const structure of all) structures.add(structure);
  return isNew;
}

for (const entry of cases as unknown as readonly Case[]) {
  const { config, outputs, batches } = entry;
  const name = `${config.architectures[0]}${"feed_forward_proj" in config ? ", gated" : ""}`;
  testOnceOnWebGpu(`${name} gives what transformers and PEFT give`, async (device) => {
    const base = modelOf(entry, device);
    // XLM-RoBERTa and CamemBERT make their heads before the body; no adapter draws in between.
    const { bodyPath } = base.architecture, own = entry.parameters;
    const first = own.findIndex((n) => n.startsWith(`${bodyPath}.`));
    const parameters = first > 0 ? [...own.slice(first), ...own.slice(0, first)] : own;
    assertEquals([...base.shapes.keys()].filter((n) => !base.tied.has(n)), parameters);
    const right = given(batches.right);
    await assertOutputs(await forward(base, right), batches.right, outputs);
    const model = await withLora(base, entry);
    for (const [side, sketches] of Object.entries(entry.adapted)) {
      const batch = batches[side as keyof Case["batches"]];
      await assertSketches(await forward(model, given(batch)), { batch, sketches });
    }
    await assertSketches(await forward(mergeAndUnload(model), right), {
      batch: batches.right,
      sketches: entry.adapted.right,
    });
    if (!entry.generated) return;
    const options = { maxNewTokens: entry.generated[0].length, eosTokenId: [] };
    const texts = await generate(base, PROMPTS, options) as readonly Generation[];
    assertEquals(texts.map(({ tokenIds }) => [...tokenIds]), entry.generated);
  });
  const register = isNewStructure(entry) ? testOnceOnWebGpu : testOnCpu;
  register(`${name} is trained as by PEFT`, async (device) => {
    await assertTraining(await withLora(modelOf(entry, device), entry), entry);
  });
}

Deno.test("there is a case for each task of each family", () => {
  const all: readonly Pick<Case, "config">[] = [...cases, ...vision] as never;
  const seen = new Set(all.map(({ config }) => {
    const architecture = architectureOf(config);
    return `${architecture.name} ${taskOf(architecture, config)}`;
  }));
  const wanted = ARCHITECTURES.flatMap((a) => tasksOf(a).map((task) => `${a.name} ${task}`));
  assertEquals(wanted.filter((each) => !seen.has(each)), []);
});

Deno.test("rows beyond a table of positions are refused, those of a decoder too", async () => {
  const device = await testDevice("cpu"), refused: string[] = [];
  for (const entry of cases as unknown as readonly Case[]) {
    const model = modelOf(entry, device), limit = positionLimit(model);
    if (limit === Infinity) continue;
    const rows = (length: number) => [Array.from({ length }, (_, i) => 2 + i % 5)];
    const decodes = "decoder_input_ids" in entry.batches.right;
    const batches = decodes
      ? [[limit + 1, 2], [2, limit + 1]].map(([n, m]) => ({
        inputIds: rows(n),
        decoderInputIds: rows(m),
      }))
      : [{ inputIds: rows(limit + 1) }];
    for (const batch of batches) {
      const error = await assertRejects(() => forward(model, batch), ValueError);
      assertEquals(error.code, "POSITION_RANGE");
    }
    refused.push(model.architecture.name);
  }
  assert(["bart", "bert", "gpt2", "opt", "roberta"].every((name) => refused.includes(name)));
});

Deno.test("an unknown family is an error that lists the known ones and says how to add one", () => {
  const error = assertThrows(() => architectureOf({ model_type: "lama" }), UnsupportedError);
  assertEquals(error.code, "ARCHITECTURE_UNKNOWN");
  const words = [
    "lama",
    ...ARCHITECTURES.flatMap((a) => a.modelTypes),
    "architectures: [",
    "docs/",
  ];
  assertEquals(words.filter((word) => !error.message.includes(word)), []);
});
