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
import type { ForwardInputs } from "../../lib/adapters/batch.ts";
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

const VIT = (cases as unknown as readonly Case[])[0];
const CLIP = (cases as unknown as readonly Case[])[3];

Deno.test("another task is another class, by the names that transformers has", async () => {
  const device = await testDevice("cpu"), { config } = VIT;
  const plain = await createModel({ ...config, architectures: ["ViTModel"] }, { device });
  assertEquals(plain.taskType, "FEATURE_EXTRACTION");
  const classifies = await createModel(plain.config, { device, taskType: "SEQ_CLS", numLabels: 4 });
  assertEquals(classifies.config.architectures, ["ViTForImageClassification"]);
});

Deno.test("batches without images, or with others, are refused", async () => {
  const device = await testDevice("cpu");
  const [vit, clip] = [modelOf(VIT, device), modelOf(CLIP, device)];
  const images = (...shape: number[]) => fill("pixels", shape), ids = [[1, 9], [2, 9]];
  const refused: readonly (readonly [ModelGraph, ForwardInputs, string])[] = [
    [vit, {}, "needs pixelValues"],
    [vit, { labels: [1] }, "needs pixelValues"],
    [vit, { inputIds: ids }, "its options are pixelValues, labels"],
    [vit, { pixelValues: images(2, 2, 9, 6) }, "but [B, 2, 6, 9] is"],
    [vit, { pixelValues: images(2, 108) }, "needs shape [B, 2, 6, 9]"],
    [vit, { pixelValues: images(2, 2, 6, 9), labels: [1] }, "labels has shape [1], but [B] is [2]"],
    [clip, { inputIds: ids }, "needs pixelValues"],
    [clip, { inputIds: [[1, 2, 3, 4, 5, 6, 9]], pixelValues: images(1, 3, 8, 8) }, "position 6"],
  ];
  for (const [model, inputs, text] of refused) {
    await assertRejects(() => forward(model, inputs), ValueError, text);
  }
  const prompt = promptTuningConfig({ numVirtualTokens: 2, taskType: "SEQ_CLS" });
  assertThrows(() => getPeftModel(vit, prompt), UnsupportedError, "reads images");
  const uneven = { inputIds: ids, pixelValues: images(1, 3, 8, 8) };
  await assertRejects(
    () => evaluate(clip, [uneven], { objective: imageText }),
    ShapeError,
    "1 and 2",
  );
  const adapted = await withLora(clip), adapterNames = ["default", "__base__"];
  await assertRejects(() => forward(adapted, { ...uneven, adapterNames }), ShapeError, "1 and 2");
});

Deno.test("images are classified by rows of several adapters, and what was accumulated is one batch", async () => {
  const model = await withLora(modelOf(VIT, await testDevice("cpu")));
  const pixelValues = fill("pixels", [4, 2, 6, 9]), labels = [0, 2, 1, 2];
  const halves = await Promise.all([0, 2].map(async (start) => ({
    pixelValues: tensor(
      (await pixelValues.data() as Float32Array).slice(108 * start, 108 * (start + 2)),
      { shape: [2, 2, 6, 9] },
    ),
    labels: labels.slice(start, start + 2),
  })));
  const options = { learningRate: 1e-2, steps: 2 };
  const whole = await train(model, [{ pixelValues, labels }], options);
  const parts = await train(model, halves, { ...options, gradientAccumulation: 2 });
  const losses = [whole, parts].map(({ history }) => history.map(({ loss }) => loss));
  assert(apart(losses[0], losses[1]) < 1e-5);
  const { metrics, targets } = await evaluate(whole.model, halves);
  assert(targets === 4 && metrics.accuracy >= 0 && metrics.accuracy <= 1);
  const adapterNames = ["__base__", "default", "default", "__base__"];
  const mixed = (await forward(model, { pixelValues, adapterNames })).logits;
  const [own, base] = [
    (await forward(model, { pixelValues })).logits,
    (await forward(model.base, { pixelValues })).logits,
  ];
  const rows = await Promise.all([mixed, own, base].map((logits) => logits.data()));
  adapterNames.forEach((name, row) => {
    const [got, want] = [rows[0], rows[name === "default" ? 1 : 2]].map((data) =>
      [...data.slice(3 * row, 3 * row + 3)].map(Number)
    );
    assert(apart(got, want) < 2e-5, `row ${row}`);
  });
});
