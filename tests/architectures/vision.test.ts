/**
 * Models that see, against transformers and PEFT.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  getAdapterStateDict,
  setAdapterStateDict,
} from "../../lib/adapters/checkpoint/state-dict.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import { architectureOf } from "../../lib/architectures/mod.ts";
import type { Device } from "../../lib/device/device.ts";
import { ShapeError, UnsupportedError, ValueError } from "../../lib/errors.ts";
import { createModel, loadModel } from "../../lib/io/load-model.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { promptTuningConfig } from "../../lib/methods/prompt-tuning.ts";
import { createModelGraph, type ModelGraph, structureOf } from "../../lib/model/model-graph.ts";
import { taskOf } from "../../lib/model/task-of.ts";
import { imageText } from "../../lib/tasks/image-text.ts";
import { type Tensor, tensor } from "../../lib/tensor/tensor.ts";
import { evaluate } from "../../lib/training/evaluate.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { train } from "../../lib/training/train.ts";
import { testDevice, testOnceOnWebGpu } from "../devices.ts";
import { expectedGradients } from "../golden-case.ts";
import { inFolder } from "../io/folder.ts";
import { apart } from "../steps.ts";
import cases from "./vision.golden.json" with { type: "json" };

interface Numbers {
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

interface Case {
  readonly config: Readonly<Record<string, unknown>> & { readonly architectures: string[] };
  /** Names in torch's order. */
  readonly parameters: readonly string[];
  /** Names in files. */
  readonly saved: readonly string[];
  /** Pixels by their shape. */
  readonly batch: Readonly<Record<string, readonly unknown[]>>;
  readonly outputs: Readonly<Record<string, Numbers>>;
  readonly keys: Readonly<Record<string, readonly number[]>>;
  readonly adapted: Readonly<Record<string, Numbers>>;
  readonly merged: Readonly<Record<string, Numbers>>;
  readonly gradients?: Readonly<Record<string, Numbers>>;
  readonly losses?: readonly number[];
}

const TARGETS =
  ".*(q_proj|v_proj|out_proj|o_proj|fc1|projection|patch_embedding|position_embedding)";

/** The values of a parameter, as the script that wrote the golden file computes them. */
function fill(name: string, shape: readonly number[]): Tensor {
  const seed = [...name].reduce((sum, c) => sum + c.charCodeAt(0), 0) % 97;
  const size = shape.reduce((n, d) => n * d, 1);
  const largest = name.endsWith("bias") ? 0.1 : 0.9;
  const value = (_: unknown, i: number) => largest * Math.sin(0.7 * i * i + seed);
  const values = Float32Array.from({ length: size }, value);
  return tensor(values, { shape });
}

function modelOf({ config }: Pick<Case, "config">, device: Device): ModelGraph {
  const architecture = architectureOf(config), taskType = taskOf(architecture, config);
  const { shapes } = structureOf({ architecture, config, taskType });
  const parameters = new Map([...shapes].map(([name, shape]) => [name, fill(name, shape)]));
  return createModelGraph(architecture, { config, parameters, device });
}

/** With a LoRA on linear layers, convolutions and tables, of the values of its keys. */
async function withLora(base: ModelGraph): Promise<PeftModel> {
  const taskType = base.taskType === "SEQ_CLS" ? "SEQ_CLS" : null;
  const config = loraConfig({ r: 2, loraAlpha: 3, targetModules: TARGETS, taskType });
  const model = getPeftModel(base, config);
  const state = [...getAdapterStateDict(model)].map(([k, { shape }]) =>
    [k, fill(k, shape)] as const
  );
  return (await setAdapterStateDict(model, new Map(state))).model;
}

const named = (word: string) => word.replace(/_(\w)/g, (_, c: string) => c.toUpperCase());

function batchOf({ batch }: Case): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(batch).map(([key, value]) => [
      named(key),
      key === "pixel_values" ? fill("pixels", value as number[]) : value,
    ]),
  );
}

async function assertOutputs(
  found: object,
  outputs: Readonly<Record<string, Numbers>>,
  { batch: { attention_mask: mask = [] } }: Case,
): Promise<void> {
  const kept = (mask as number[][]).flat();
  for (const [key, { shape, values }] of Object.entries(outputs)) {
    const got = (found as Record<string, Tensor>)[named(key)];
    assertEquals(got.shape, shape, key);
    const data = await got.data() as Float32Array, width = shape.at(-1)!;
    const isToken = (i: number) =>
      key !== "last_hidden_state" || (kept[Math.floor(i / width)] ?? 1);
    const own = values.map((x, i) => isToken(i) ? x : 0);
    assert(apart(data.map((x, i) => isToken(i) ? x : 0), own) < 2e-5, key);
  }
}

for (const entry of cases as unknown as readonly Case[]) {
  const { config, gradients, losses } = entry;
  const [name] = config.architectures;
  testOnceOnWebGpu(`${name} gives what transformers and PEFT give`, async (device) => {
    const base = modelOf(entry, device), batch = batchOf(entry);
    assertEquals([...base.shapes.keys()], entry.parameters);
    const { labels: _, ...inputs } = batch;
    await assertOutputs(await forward(base, inputs), entry.outputs, entry);
    const model = await withLora(base);
    const saved = [...getAdapterStateDict(model)].map(([key, { shape }]) => [key, shape]);
    assertEquals(Object.fromEntries(saved), entry.keys);
    await assertOutputs(await forward(model, inputs), entry.adapted, entry);
    await assertOutputs(await forward(mergeAndUnload(model), inputs), entry.merged, entry);
    if (!gradients || !losses) return;
    const objective = "labels" in batch ? undefined : imageText;
    const { loss, gradients: own } = await computeGradients(model, batch, { objective });
    assert(apart([loss], [losses[0]]) < 1e-5, `${loss} for ${losses[0]}`);
    const expected = await expectedGradients(model, {
      names: () => Object.keys(gradients).map((key) => `grad.${key}`),
      get: (key) => {
        const { values, shape } = gradients[key.slice("grad.".length)];
        return tensor(Float32Array.from(values), { shape });
      },
    });
    assertEquals(new Set(own.keys()), new Set(expected.keys()));
    const largest = Math.max(...[...expected.values()].flatMap((x) => [...x.map(Math.abs)]));
    for (const [leaf, values] of expected) {
      const got = await own.get(leaf)!.data() as Float32Array;
      assert(apart(got, values, largest) < 2e-5, `gradient of ${leaf}`);
    }
    const { history } = await train(model, [batch], {
      learningRate: 1e-2,
      weightDecay: 0.1,
      schedule: "constant",
      steps: 3,
      objective,
    });
    assert(apart(history.map(({ loss }) => loss), losses) < 1e-5, `${history}`);
  });

  Deno.test(`${name} is written and read under the names of its files`, async () => {
    const base = modelOf(entry, await testDevice("cpu"));
    await inFolder(async (folder) => {
      await saveModel(base, folder);
      const { tensors } = await openSafetensors(`${folder}/model.safetensors`);
      assertEquals([...tensors.keys()].sort(), entry.saved);
      const again = await loadModel(folder, { device: base.device });
      assertEquals([...again.parameters.keys()], [...base.parameters.keys()]);
      assertEquals(again.taskType, base.taskType);
    });
  });
}
