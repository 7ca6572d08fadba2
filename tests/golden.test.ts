/**
 * Walks the golden LoRA cases on each device: adapted and merged logits, first gradients and three AdamW losses of the real PEFT.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { adapterKeys, type KeyTarget } from "../lib/adapters/adapter-keys.ts";
import { causalLoss, forward, shiftLabels } from "../lib/adapters/forward.ts";
import { parameterLeaf, tokensLeaf, trainableLeaves, withLeaves } from "../lib/adapters/leaves.ts";
import { loadAdapter } from "../lib/adapters/load.ts";
import { mergeAndUnload } from "../lib/adapters/merge.ts";
import type { AnyModel, PeftModel } from "../lib/adapters/peft-model.ts";
import { disableAdapters, setAdapter } from "../lib/adapters/select.ts";
import { runInputs, traceModel } from "../lib/adapters/trace-model.ts";
import type { Device } from "../lib/device/device.ts";
import { CheckpointError, UnsupportedError } from "../lib/errors.ts";
import { readJsonFile } from "../lib/io/json.ts";
import { openSafetensors } from "../lib/io/safetensors.ts";
import { input } from "../lib/ops/input.ts";
import { gradients } from "../lib/program/grad.ts";
import { toFloat32 } from "../lib/tensor/convert.ts";
import { type Tensor, tensor } from "../lib/tensor/tensor.ts";
import { golden, goldenBase } from "./adapters/bases.ts";
import { testOnDevices } from "./devices.ts";
import cases from "./golden/cases.json" with { type: "json" };

/** Bounds: of logits as a share of the largest, of losses relative, of gradients as a share of the largest of all. */
const LOGITS = 2e-5, LOSSES = 1e-5, GRADIENTS = 2e-5;

interface GoldenCase {
  readonly seed: number;
  readonly losses?: readonly number[];
  readonly losses_as_one_parameter?: readonly number[];
  readonly optimizer?: { readonly lr: number; readonly weight_decay: number };
  readonly merged?: boolean;
  readonly merged_difference?: number;
  readonly reload_error?: unknown;
  readonly converted?: boolean;
}

interface Expected {
  readonly record: GoldenCase;
  get(name: string): Tensor;
  has(name: string): boolean;
  names(): Iterable<string>;
}

async function expectedOf(name: string): Promise<Expected> {
  const { tensors } = await openSafetensors(`${golden}lora/${name}/expected.safetensors`);
  return {
    record: await readJsonFile(`${golden}lora/${name}/case.json`) as unknown as GoldenCase,
    get(key) {
      const found = tensors.get(key);
      assert(found, `${key} in ${name}`);
      return found;
    },
    has: (key) => tensors.has(key),
    names: () => tensors.keys(),
  };
}

async function assertClose(
  got: Tensor,
  want: Tensor,
  options: { readonly mask: Tensor; readonly what: string },
): Promise<void> {
  const [a, b] = [await toFloat32(got), await toFloat32(want)];
  const mask = await options.mask.data();
  assertEquals(a.length, b.length, options.what);
  const width = want.shape[want.shape.length - 1];
  let largest = 0, apart = 0;
  for (let i = 0; i < b.length; i++) {
    if (Number(mask[Math.floor(i / width)]) === 0) continue;
    largest = Math.max(largest, Math.abs(b[i]));
    apart = Math.max(apart, Math.abs(a[i] - b[i]));
  }
  assert(apart / largest < LOGITS, `${options.what}: ${apart / largest} of the largest logit`);
}

async function assertLogits(
  model: AnyModel,
  expected: Expected,
  names: { readonly right?: string; readonly left?: string; readonly what: string },
): Promise<void> {
  const { right, left, what } = names;
  if (right) {
    const mask = expected.get("in.attention_mask");
    const inputs = { inputIds: expected.get("in.input_ids"), attentionMask: mask };
    const { logits } = await forward(model, inputs);
    await assertClose(logits, expected.get(right), { mask, what: `${what}, right-padded` });
  }
  if (left) {
    const mask = expected.get("left.attention_mask");
    const { logits } = await forward(model, {
      inputIds: expected.get("left.input_ids"),
      attentionMask: mask,
      positionIds: expected.get("left.position_ids"),
    });
    await assertClose(logits, expected.get(left), { mask, what: `${what}, left-padded` });
  }
}

/** One step's loss and gradients by leaf, without dropout. */
async function differentiate(
  model: PeftModel,
  expected: Expected,
): Promise<{ readonly loss: number; readonly grads: ReadonlyMap<string, Float32Array> }> {
  const ids = Int32Array.from(await expected.get("in.input_ids").data() as Int32Array, Number);
  const mask = Int32Array.from(
    await expected.get("in.attention_mask").data() as Int32Array,
    Number,
  );
  const labels = Int32Array.from(await expected.get("in.labels").data() as Int32Array, Number);
  const [batch, length] = expected.get("in.input_ids").shape;
  const leaves = trainableLeaves(model);
  const traced = traceModel(model, {
    batch,
    length,
    trained: (graph, name) => {
      const leaf = leaves.get(name);
      return leaf && input(graph, name, { shape: leaf.shape, dtype: "f32" });
    },
    outputs: (pass, values) => {
      const shifted = input(pass.graph, "labels", { shape: [batch, length], dtype: "i32" });
      const loss = causalLoss(values.logits, shifted).mean;
      const wanted = [...leaves].map(([name, { shape }]) =>
        input(pass.graph, name, { shape, dtype: "f32" })
      );
      const found = gradients(loss, wanted);
      return {
        loss,
        ...Object.fromEntries([...leaves.keys()].map((n, i) => [`grad.${n}`, found[i]])),
      };
    },
  });
  const { program } = traced;
  const executable = await model.base.device.compile(program);
  const positions = ids.map((_, i) => i % length);
  const outputs = await executable.run({
    ...traced.bindings,
    ...Object.fromEntries([...leaves].filter(([name]) => program.inputs.has(name))),
    ...runInputs(model, { program, batch, length, ids, positions, keySegments: mask }),
    labels: tensor(shiftLabels(labels, length), { shape: [batch, length] }),
  });
  const grads = new Map<string, Float32Array>();
  for (const name of leaves.keys()) grads.set(name, await toFloat32(outputs[`grad.${name}`]));
  return { loss: (await outputs.loss.data())[0] as number, grads };
}

/** The name of a live parameter of PEFT as a key of its file. */
function keyOf(parameter: string): string {
  return parameter.replace(".modules_to_save.default", "").replace(".default", "")
    .replace(/(lora_magnitude_vector)\.weight$/, "$1");
}

/** The leaf that a key belongs to, and whether it is its transpose. */
function leafOf(
  model: PeftModel,
  target: KeyTarget,
): { readonly leaf: string; readonly transposed: boolean } {
  const adapter = model.adapters.get("default")!;
  switch (target.kind) {
    case "leaf": {
      const tie = adapter.sites.get(target.path)!.tied?.[target.leaf];
      const { path, leaf } = tie ?? target;
      return { leaf: `a0.${path}.${leaf}`, transposed: tie !== undefined };
    }
    case "tokens":
      return { leaf: tokensLeaf(adapter, target.path, 0)!.leaf, transposed: false };
    default:
      return { leaf: parameterLeaf(adapter, target.name, 0)!.leaf, transposed: false };
  }
}

/** PEFT's gradients by leaf; those of tied leaves, which PEFT keeps apart, added up. */
async function expectedGradients(
  model: PeftModel,
  expected: Expected,
): Promise<ReadonlyMap<string, Float32Array>> {
  const keys = adapterKeys(model.base, model.adapters.get("default")!, false);
  const sums = new Map<string, Float32Array>();
  for (const name of expected.names()) {
    if (!name.startsWith("grad.")) continue;
    const target = keys.get(keyOf(name.slice("grad.".length)));
    assert(target, `the gradient ${name} belongs to a leaf`);
    const { leaf, transposed } = leafOf(model, target);
    const { shape } = expected.get(name);
    const values = await toFloat32(expected.get(name));
    const sum = sums.get(leaf) ?? new Float32Array(values.length);
    values.forEach((value, i) => {
      sum[transposed ? (i % shape[1]) * shape[0] + Math.floor(i / shape[1]) : i] += value;
    });
    sums.set(leaf, sum);
  }
  return sums;
}

/** The losses before each of `steps` AdamW steps (Loshchilov and Hutter, 2019, arXiv:1711.05101) with torch's defaults. */
async function adamLosses(
  start: PeftModel,
  expected: Expected,
  options: { readonly lr: number; readonly weight_decay: number; readonly steps: number },
): Promise<readonly number[]> {
  const { lr, weight_decay: decay, steps } = options;
  const [beta1, beta2, epsilon] = [0.9, 0.999, 1e-8];
  const moments = new Map<string, readonly [Float64Array, Float64Array]>();
  const losses: number[] = [];
  let model = start;
  for (let step = 1; step <= steps; step++) {
    const { loss, grads } = await differentiate(model, expected);
    losses.push(loss);
    const changed = new Map<string, Tensor>();
    for (const [name, leaf] of trainableLeaves(model)) {
      const g = grads.get(name)!;
      const [m, v] = moments.get(name) ?? [new Float64Array(g.length), new Float64Array(g.length)];
      moments.set(name, [m, v]);
      const values = (await toFloat32(leaf)).map((x, i) => {
        m[i] = beta1 * m[i] + (1 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
        const rate = m[i] / (1 - beta1 ** step) / (Math.sqrt(v[i] / (1 - beta2 ** step)) + epsilon);
        return x * (1 - lr * decay) - lr * rate;
      });
      changed.set(name, tensor(values, { shape: leaf.shape }));
    }
    model = withLeaves(model, changed);
  }
  return losses;
}

async function load(name: string, kind: string, device: Device): Promise<PeftModel> {
  const { seed } = (await expectedOf(name)).record;
  const base = await goldenBase(kind, device);
  return await loadAdapter(base, `${golden}lora/${name}`, { isTrainable: true, seed });
}

for (const { name, kind, adapters } of cases.lora) {
  if (adapters.length) continue;
  testOnDevices(`golden ${name}`, async (device) => {
    const expected = await expectedOf(name);
    const { record } = expected;
    if (record.reload_error) {
      // PEFT cannot read what it wrote here, and neither can anyone: the order of the patterns is lost.
      await assertRejects(() => load(name, kind, device), CheckpointError);
      return;
    }
    const model = await load(name, kind, device);
    await assertLogits(model, expected, {
      right: "adapted.logits",
      left: "left.adapted.logits",
      what: "adapted",
    });

    if (record.merged === false) {
      assertThrows(() => mergeAndUnload(model), UnsupportedError);
    } else {
      // Where PEFT merges into a weight that is tied, its own merged logits are not what the adapter gives.
      const right = record.merged_difference! > LOGITS ? "adapted.logits" : "merged.logits";
      const left = "left.adapted.logits";
      await assertLogits(mergeAndUnload(model), expected, { right, left, what: "merged" });
    }
    // The base of the model is still what it was.
    const plain = await forward(await goldenBase(kind, device), {
      inputIds: expected.get("in.input_ids"),
    });
    const off = await forward(disableAdapters(model), { inputIds: expected.get("in.input_ids") });
    assertEquals(await off.logits.data(), await plain.logits.data());

    // The gradients and losses of a converted adapter are those of what it was made from.
    if (record.converted) return;
    const { grads } = await differentiate(model, expected);
    const wanted = await expectedGradients(model, expected);
    assertEquals([...grads.keys()].sort(), [...wanted.keys()].sort());
    const largest = Math.max(...[...wanted.values()].map((g) => Math.max(...g.map(Math.abs))));
    for (const [leaf, want] of wanted) {
      const got = grads.get(leaf)!;
      const apart = Math.max(...want.map((value, i) => Math.abs(value - got[i]))) / largest;
      assert(apart < GRADIENTS, `gradient of ${leaf}: ${apart} of the largest`);
    }

    const losses = record.losses_as_one_parameter ?? record.losses!;
    const got = await adamLosses(model, expected, { ...record.optimizer!, steps: losses.length });
    losses.forEach((loss, i) => {
      const apart = Math.abs(got[i] - loss) / loss;
      assert(apart < LOSSES, `loss ${i}: ${got[i]} instead of ${loss} (${apart})`);
    });
  });
}

for (const { name, kind, adapters } of cases.lora) {
  if (adapters.length === 0) continue;
  testOnDevices(`golden ${name}`, async (device) => {
    const expected = await expectedOf(name);
    let model: AnyModel = await goldenBase(kind, device);
    for (const adapterName of adapters) {
      model = await loadAdapter(model, `${golden}lora/${name}`, {
        adapterName,
        subfolder: adapterName,
      });
    }
    const all = model as PeftModel;
    assertEquals(all.active, [adapters[0]]);
    for (const adapterName of adapters) {
      await assertLogits(setAdapter(all, adapterName), expected, {
        right: `adapted.${adapterName}.logits`,
        left: `left.adapted.${adapterName}.logits`,
        what: adapterName,
      });
    }
    const both = setAdapter(all, adapters);
    await assertLogits(both, expected, { right: "adapted.both.logits", what: "both" });
    const right = expected.record.merged_difference! > LOGITS
      ? "adapted.both.logits"
      : "merged.logits";
    await assertLogits(mergeAndUnload(both), expected, { right, what: "both merged" });
  });
}
