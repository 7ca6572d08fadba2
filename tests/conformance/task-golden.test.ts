/**
 * Walks the golden cases of tasks: what the real PEFT gave, trained and merged on models of any task, with any inputs.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import type { AdaLoraConfig } from "../../lib/methods/adalora.ts";
import { camelCase } from "../../lib/methods/config.ts";
import { isMergeable } from "../../lib/methods/site-rule.ts";
import { type AnyModel, type PeftModel, pristineBase } from "../../lib/adapters/peft-model.ts";
import { setAdapter } from "../../lib/adapters/select.ts";
import { generate } from "../../lib/generation/generate.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { add, mul } from "../../lib/ops/elementwise.ts";
import { constant } from "../../lib/ops/constant.ts";
import { sum } from "../../lib/ops/reduce.ts";
import type { Objective } from "../../lib/tasks/objective.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";
import { computeGradients } from "../../lib/training/gradients.ts";
import { train } from "../../lib/training/train.ts";
import { goldenBase } from "../adapters/bases.ts";
import { testOnceOnWebGpu } from "../devices.ts";
import {
  type Expected,
  expectedGradients,
  expectedOf,
  type GoldenCase,
  inputsOf,
  LOGITS,
  taskCases,
} from "../golden-case.ts";

/** Bounds: of losses relative, of gradients as a share of the largest of all. */
const LOSSES = 1e-5, GRADIENTS = 2e-5;

async function assertClose(got: Tensor, want: Tensor, mask: Tensor | undefined, what: string) {
  assertEquals(got.shape, want.shape, what);
  const [a, b] = [await toFloat32(got), await toFloat32(want)];
  const [batch, rows] = want.shape, width = b.length / (batch * rows);
  const seen = await mask?.data(), length = mask?.shape[1] ?? 0;
  let largest = 0, apart = 0;
  for (let i = 0; i < b.length; i++) {
    const row = Math.floor(i / width) % rows - (rows - length);
    const at = Math.floor(i / width / rows) * length + row;
    if (seen && row >= 0 && Number(seen[at]) === 0) continue;
    largest = Math.max(largest, Math.abs(b[i]));
    apart = Math.max(apart, Math.abs(a[i] - b[i]));
  }
  assert(apart / largest < LOGITS, `${what}: ${apart / largest} of the largest`);
}

const OUTPUTS = ["logits", "last_hidden_state", "pooler_output"];

async function assertOutputs(
  model: AnyModel,
  expected: Expected,
  at: { readonly prefix: string; readonly inputs: string; readonly noise?: number },
): Promise<void> {
  const inputs = inputsOf(expected, at.inputs, at.noise);
  const outputs = await forward(model, inputs as never) as unknown as Record<string, Tensor>;
  for (const name of OUTPUTS) {
    if (!expected.has(`${at.prefix}${name}`)) continue;
    const want = expected.get(`${at.prefix}${name}`);
    const mask = (inputs.decoderAttentionMask ?? inputs.attentionMask) as Tensor | undefined;
    const rows = want.shape.length === 3 ? mask : undefined;
    await assertClose(outputs[camelCase(name)], want, rows, `${at.prefix}${name}`);
  }
}

for (const golden of taskCases) {
  if (golden.adapters.length) continue;
  testOnceOnWebGpu(`golden ${golden.peftType} ${golden.name}`, async (device) => {
    const expected = await expectedOf(golden), { record } = expected;
    const base = await goldenBase(golden.kind, device);
    const model = await loadAdapter(base, golden.folder, { isTrainable: true, seed: record.seed });
    await assertOutputs(model, expected, { prefix: "adapted.", inputs: "in." });
    if (expected.has("left.input_ids")) {
      await assertOutputs(model, expected, { prefix: "left.adapted.", inputs: "left." });
    }
    if (expected.has("noisy.logits")) {
      await assertOutputs(model, expected, { prefix: "noisy.", inputs: "in.", noise: 0 });
    }

    if (!isMergeable(model.adapters.get("default")!)) {
      assertThrows(() => mergeAndUnload(model));
    } else {
      const right = expected.has("merged.logits") && record.merged_difference! <= LOGITS;
      const prefix = right ? "merged." : "adapted.";
      await assertOutputs(mergeAndUnload(model), expected, { prefix, inputs: "in." });
    }

    const mode = record.mode === "train" ? 0 : undefined;
    const batch = inputsOf(expected, "in.", mode) as never;
    const names = [...expected.names()];
    if (names.some((name) => name.startsWith("grad."))) {
      const cotangents = names.filter((name) => name.startsWith("cotangent."));
      const objective = cotangents.length ? await weighing(expected, cotangents) : undefined;
      const { gradients } = await computeGradients(
        objective ? unpenalised(model) : model,
        batch,
        { objective },
      );
      const wanted = await expectedGradients(model, expected);
      assertEquals([...gradients.keys()].sort(), [...wanted.keys()].sort());
      const largest = Math.max(...[...wanted.values()].map((g) => Math.max(...g.map(Math.abs))));
      for (const [leaf, want] of wanted) {
        const got = await toFloat32(gradients.get(leaf)!);
        const far = Math.max(0, ...got.map((x, i) => Math.abs(x - want[i]))) / largest;
        assert(far < GRADIENTS, `gradient of ${leaf}: ${far} of the largest`);
      }
    }
    const { losses, steps, optimizer } = record;
    // Allocation counts steps from 0, as PEFT's own loops do; one case counts from 1.
    if (!losses && steps?.[0].step !== 0) return;
    const wanted = losses ?? steps!.map(({ loss }) => loss);
    const batches = wanted.map((_, step) =>
      inputsOf(expected, "in.", record.mode === "train" ? step : undefined) as never
    );
    // Losses are those of plain steps of an optimizer; where the record is of a whole training, of that.
    const plain = !steps && golden.peftType === "ADALORA";
    const { history, model: trained } = await train(plain ? patient(model) : model, batches, {
      learningRate: optimizer!.lr,
      weightDecay: optimizer!.weight_decay,
      steps: wanted.length,
      dropout: false,
    });
    wanted.forEach((loss, i) => {
      const far = Math.abs(history[i].loss - loss) / loss;
      assert(far < LOSSES, `loss ${i}: ${history[i].loss} instead of ${loss} (${far})`);
    });
    if (steps) await assertAllocated(trained, golden, expected);
  });
}

/** The model with an AdaLoRA without its penalty, which PEFT adds to losses only. */
function unpenalised(model: PeftModel): PeftModel {
  const adapter = model.adapters.get("default")!;
  const config = { ...adapter.config, orthRegWeight: 0 };
  return { ...model, adapters: new Map([["default", { ...adapter, config }]]) };
}

/** The model with an AdaLoRA that takes no ranks away for as long as anyone waits. */
function patient(model: PeftModel): PeftModel {
  const adapter = model.adapters.get("default")!;
  const config = { ...adapter.config, tinit: 1e6, totalStep: 2e6, tfinal: 0 };
  return { ...model, adapters: new Map([["default", { ...adapter, config }]]) };
}

/** Compares what an allocation left with PEFT's file. */
async function assertAllocated(model: PeftModel, golden: GoldenCase, expected: Expected) {
  const base = await goldenBase(golden.kind, pristineBase(model).device);
  const saved = await loadAdapter(base, `${golden.folder}trained`);
  const [got, want] = [model, saved].map((m) => m.adapters.get("default")!.config as AdaLoraConfig);
  assertEquals(got.rankPattern, want.rankPattern);
  const inputs = inputsOf(expected, "in.") as never;
  const [a, b] = [await forward(model, inputs), await forward(saved, inputs)];
  const what = expected.has("trained.reloaded.logits")
    ? "trained.reloaded.logits"
    : "trained.logits";
  const mask = expected.get("in.attention_mask");
  await assertClose(b.logits, expected.get(what), mask, what);
  await assertClose(a.logits, expected.get(what), mask, `${what} of the trained model`);
}

/** The sum of a model's outputs times numbers that a case recorded. */
async function weighing(expected: Expected, names: readonly string[]): Promise<Objective> {
  const weights = await Promise.all(names.map(async (name) => {
    const { shape } = expected.get(name);
    return {
      shape,
      name: camelCase(name.slice("cotangent.".length)),
      data: await toFloat32(expected.get(name)),
    };
  }));
  return {
    name: "cotangent",
    outputs: weights.map(({ name }) => name),
    inputs: () => [],
    prepare: () => ({ count: 1 }),
    loss: (outputs) =>
      weights.map(({ name, data, shape }) =>
        sum(mul(outputs[name], constant(outputs[name].graph, [...data], { shape })))
      ).reduce((a, b) => add(a, b)),
  };
}

for (const golden of taskCases) {
  const { adapters, folder } = golden;
  if (adapters.length === 0) continue;
  testOnceOnWebGpu(`golden ${golden.peftType} ${golden.name}`, async (device) => {
    const expected = await expectedOf(golden);
    let model: AnyModel = await goldenBase(golden.kind, device);
    for (const adapterName of adapters) {
      model = await loadAdapter(model, folder, { adapterName, subfolder: adapterName });
    }
    const all = model as PeftModel;
    for (const adapterName of adapters) {
      await assertOutputs(setAdapter(all, adapterName), expected, {
        prefix: `adapted.${adapterName}.`,
        inputs: "in.",
      });
    }
    if (!expected.has("adapted.both.logits")) return;
    const both = setAdapter(all, adapters);
    await assertOutputs(both, expected, { prefix: "adapted.both.", inputs: "in." });
    if (!isMergeable(both.adapters.get(adapters[0])!)) return;
    await assertOutputs(mergeAndUnload(both), expected, { prefix: "adapted.both.", inputs: "in." });
  });
}

for (const golden of taskCases) {
  testOnceOnWebGpu(`golden text ${golden.peftType} ${golden.name}`, async (device) => {
    const expected = await expectedOf(golden);
    if (golden.adapters.length || !expected.has("generated.ids")) return;
    const base = await goldenBase(golden.kind, device);
    const model = await loadAdapter(base, golden.folder);
    const inputs = inputsOf(expected, "in.");
    const rows = await rowsOf(inputs.inputIds as Tensor, inputs.attentionMask as Tensor);
    const tasks = inputs.taskIds as Tensor | undefined;
    const taskIds = tasks && [...await tasks.data()].map(Number);
    const want = await rowsOf(expected.get("generated.ids"));
    for (const [row, source] of rows.entries()) {
      // What a decoder goes on from is part of its text.
      const name = `alone.${row}.generated.ids`;
      const alone = expected.has(name) ? (await rowsOf(expected.get(name)))[0] : undefined;
      const [{ tokenIds }] = await generate(model, [alone?.slice(0, -8) ?? source], {
        maxNewTokens: 8,
        eosTokenId: [],
        ...(taskIds && { taskIds: [taskIds[row]] }),
      });
      assertEquals(tokenIds, (alone ?? want[row]).slice(-8), `text of row ${row}`);
    }
  });
}

/** Rows of integers, without what is masked. */
async function rowsOf(ids: Tensor, mask?: Tensor): Promise<number[][]> {
  const [batch, length] = ids.shape;
  const values = [...await ids.data()].map(Number),
    seen = mask && [...await mask.data()].map(Number);
  return Array.from(
    { length: batch },
    (_, b) =>
      values.slice(b * length, (b + 1) * length).filter((_, t) => !seen || seen[b * length + t]),
  );
}
