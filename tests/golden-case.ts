/**
 * The golden cases of all methods that adapt modules, and what is compared in each.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { adapterKeys, type KeyTarget } from "../lib/adapters/checkpoint/adapter-keys.ts";
import { forward } from "../lib/adapters/forward.ts";
import { initialCalibration } from "../lib/adapters/lora/calibration-files.ts";
import { leafName } from "../lib/adapters/leaves.ts";
import { leavesAt } from "../lib/adapters/parts.ts";
import type { AnyModel, PeftModel } from "../lib/adapters/peft-model.ts";
import { readJsonFile } from "../lib/io/json.ts";
import { openSafetensors } from "../lib/io/safetensors.ts";
import type { Calibration } from "../lib/methods/calibration.ts";
import { camelCase, type TargetConfig } from "../lib/methods/config.ts";
import { fromPeftJson } from "../lib/methods/peft-json.ts";
import type { ModelGraph } from "../lib/model/model-graph.ts";
import { toFloat32 } from "../lib/tensor/convert.ts";
import type { Tensor } from "../lib/tensor/tensor.ts";
import { golden } from "./adapters/bases.ts";
import type { LabelledBatch } from "./steps.ts";
import cases from "./golden/cases.json" with { type: "json" };

/** Bound of the difference between logits, as a share of the largest. */
export const LOGITS = 2e-5;

/** PEFT's arguments of a config, as the golden files record them. */
export type PeftArguments = Readonly<Record<string, unknown>>;

/** One golden case. */
export interface GoldenCase {
  /** PEFT's name of the method. */
  readonly peftType: string;
  /** Unique in its method. */
  readonly name: string;
  /** Path of its folder, with a slash at the end. */
  readonly folder: string;
  /** Name of the base. */
  readonly kind: string;
  /** Names of its adapters, where there are several. */
  readonly adapters: readonly string[];
}

/** `case.json`, as far as tests look at it. */
export interface CaseRecord {
  readonly seed: number;
  /** Of a case of one adapter. */
  readonly config?: PeftArguments;
  /** Of a case of several. */
  readonly adapters?: Readonly<Record<string, PeftArguments>>;
  readonly losses?: readonly number[];
  readonly mode?: "train";
  readonly steps?: readonly { readonly step: number; readonly loss: number }[];
  readonly cotangent?: unknown;
  readonly losses_as_one_parameter?: readonly number[];
  readonly optimizer?: { readonly lr: number; readonly weight_decay: number };
  readonly merged?: boolean;
  readonly merged_difference?: number;
  readonly reload_error?: unknown;
  /** Why PEFT does not train further what the file holds. */
  readonly resume_error?: unknown;
  readonly converted?: boolean;
  readonly trainable_parameters?: number;
}

/** What a method's index says beside its cases. */
export interface GoldenMethod {
  /** PEFT's name of the method. */
  readonly peftType: string;
  /** Path of its folder, with a slash at the end. */
  readonly folder: string;
  /** Initial values, by name. */
  readonly init: Readonly<
    Record<string, {
      readonly kind: string;
      readonly seed: number;
      readonly config: PeftArguments;
      readonly order: readonly string[];
      readonly next_uniform: number;
    }>
  >;
  /** What PEFT refuses, by name. */
  readonly refused: Readonly<
    Record<string, {
      readonly kind: string;
      readonly config: PeftArguments;
      /** Of an adapter that is added to the first. */
      readonly second?: PeftArguments;
      readonly task_ids?: readonly number[];
      readonly stage?: string;
      readonly error: { readonly type: string; readonly message: string } | null;
    }>
  >;
}

interface MethodIndex extends Pick<GoldenMethod, "init" | "refused"> {
  readonly peft_type: string;
  readonly cases: readonly Pick<GoldenCase, "name" | "kind" | "adapters">[];
}

const indexes = [...Deno.readDirSync(`${golden}methods`)].filter((entry) => entry.isDirectory)
  .map(({ name }) => `${golden}methods/${name}/`).sort()
  .map((folder): readonly [string, MethodIndex] => [
    folder,
    JSON.parse(Deno.readTextFileSync(`${folder}index.json`)),
  ]);

/** The methods beside LoRA. */
export const goldenMethods: readonly GoldenMethod[] = indexes.map(([folder, index]) => ({
  peftType: index.peft_type,
  folder,
  init: index.init,
  refused: index.refused,
}));

/** All cases. */
export const goldenCases: readonly GoldenCase[] = [
  ...cases.lora.map((entry) => ({
    ...entry,
    peftType: "LORA",
    folder: `${golden}lora/${entry.name}/`,
  })),
  ...indexes.flatMap(([folder, { peft_type: peftType, cases }]) =>
    cases.map((entry) => ({ ...entry, peftType, folder: `${folder}${entry.name}/` }))
  ),
];

const taskIndexes = (JSON.parse(Deno.readTextFileSync(`${golden}adapters/index.json`)) as {
  readonly methods: readonly { readonly peft_type: string; readonly folder: string }[];
}).methods.map(({ folder }) => `${golden}adapters/${folder}/`).map((
  folder,
): readonly [string, MethodIndex] => [
  folder,
  JSON.parse(Deno.readTextFileSync(`${folder}index.json`)),
]);

/** Methods with cases on models of any task. */
export const taskMethods: readonly GoldenMethod[] = taskIndexes.map(([folder, index]) => ({
  peftType: index.peft_type,
  folder,
  init: index.init,
  refused: index.refused,
}));

/** Cases on models of any task, with any inputs. */
export const taskCases: readonly GoldenCase[] = taskIndexes.flatMap((
  [folder, { peft_type: peftType, cases }],
) => cases.map((entry) => ({ ...entry, peftType, folder: `${folder}${entry.name}/` })));

/** A config from PEFT's arguments. */
export function peftConfig(peftType: string, fields: PeftArguments): TargetConfig {
  return fromPeftJson(
    { peft_type: peftType, task_type: "CAUSAL_LM", ...fields },
  ) as TargetConfig;
}

/** What PEFT gave in a case. */
export interface Expected {
  readonly record: CaseRecord;
  get(name: string): Tensor;
  has(name: string): boolean;
  names(): Iterable<string>;
}

/** Opens what PEFT gave in a case. */
export async function expectedOf({ folder }: Pick<GoldenCase, "folder">): Promise<Expected> {
  const { tensors } = await openSafetensors(`${folder}expected.safetensors`);
  return {
    record: await readJsonFile(`${folder}case.json`) as unknown as CaseRecord,
    get(key) {
      const found = tensors.get(key);
      assert(found, `${key} in ${folder}`);
      return found;
    },
    has: (key) => tensors.has(key),
    names: () => tensors.keys(),
  };
}

/**
 * The parts of a batch that were recorded under a prefix, with the noise of a step of training where
 * its number is given.
 */
export function inputsOf(
  expected: Pick<Expected, "get" | "names">,
  prefix: string,
  noise?: number,
): Readonly<Record<string, unknown>> {
  const inputs: Record<string, unknown> = {};
  const draws: Record<string, Tensor> = {};
  for (const name of expected.names()) {
    const part = name.startsWith(prefix) ? name.slice(prefix.length) : ".";
    if (!part.includes(".")) inputs[camelCase(part)] = expected.get(name);
    if (noise !== undefined && name.startsWith("noise.")) {
      draws[name.slice("noise.".length)] = stepOf(expected.get(name), noise);
    }
  }
  return noise === undefined ? inputs : { ...inputs, noise: draws };
}

function stepOf(all: Tensor, step: number): Tensor {
  const shape = all.shape.slice(1), size = shape.reduce((n, d) => n * d, 1);
  return {
    ...all,
    shape,
    data: async () => (await toFloat32(all)).slice(step * size, (step + 1) * size),
  };
}

/** The batch that losses are of, with the noise of a step of training where its number is given. */
export function batchOf(expected: Expected, noise?: number): LabelledBatch {
  return inputsOf(expected, "in.", noise) as unknown as LabelledBatch;
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

/**
 * Compares a model's logits with those of these names: of the right-padded batch, and of the
 * left-padded one, which not every case has.
 */
export async function assertLogits(
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
  if (left && expected.has(left)) {
    const mask = expected.get("left.attention_mask");
    const { logits } = await forward(model, {
      inputIds: expected.get("left.input_ids"),
      attentionMask: mask,
      positionIds: expected.get("left.position_ids"),
    });
    await assertClose(logits, expected.get(left), { mask, what: `${what}, left-padded` });
  }
}

/**
 * Name of the logits of the right-padded batch that a merged model is to give: PEFT's own, but the
 * adapted ones where it merges into a weight that is tied, or records no others.
 */
export function mergedName(expected: Expected, adapted: string): string {
  const { merged_difference: difference = Infinity, mode } = expected.record;
  // Where outputs are drawn at random, weights hold their mean.
  const counts = mode === "train" || difference <= LOGITS;
  return expected.has("merged.logits") && counts ? "merged.logits" : adapted;
}

/** The name of a live parameter of PEFT as a key of its file. */
export function fileKey(parameter: string): string {
  return parameter.replace(/^prompt_encoder\.default\.embedding\.weight$/, "prompt_embeddings")
    .replace(".modules_to_save.default", "").replace(".default", "")
    .replace(/(lora_magnitude_vector)\.weight$/, "$1");
}

/** What an adapter needs that began with what was measured, from how PEFT's began. */
export async function calibrationOf(
  base: ModelGraph,
  expected: Expected,
): Promise<Calibration | undefined> {
  const names = [...expected.names()];
  const { config, converted } = expected.record;
  if (converted || !names.some((name) => name.startsWith("gradient."))) return undefined;
  const began = names.filter((name) => name.startsWith("init."));
  const tensors = new Map(
    began.map((name) => [fileKey(name.slice("init.".length)), expected.get(name)]),
  );
  return await initialCalibration(base, { config: peftConfig("LORA", config!), tensors });
}

/** The leaf that a key belongs to, and whether it is its transpose. */
function leafAt(
  model: PeftModel,
  target: KeyTarget,
): { readonly leaf: string; readonly transposed: boolean } {
  if (target.kind === "base") throw new TypeError(`${target.name} is not trained.`);
  const { tie } = model.adapters.get("default")!.parts.get(target.part)!.leaves[target.leaf];
  return {
    leaf: leafName(0, tie?.part ?? target.part, tie?.leaf ?? target.leaf),
    transposed: tie?.transposed === true,
  };
}

/** PEFT's gradients by leaf; those of tied leaves, which PEFT keeps apart, added up. */
export async function expectedGradients(
  model: PeftModel,
  expected: Pick<Expected, "names" | "get">,
): Promise<ReadonlyMap<string, Float32Array>> {
  const adapter = model.adapters.get("default")!;
  const keys = adapterKeys(model.base, adapter, false);
  const sums = new Map<string, Float32Array>(), pieces = new Map<string, Record<string, Tensor>>();
  for (const name of expected.names()) {
    if (!name.startsWith("grad.")) continue;
    const target = keys.get(fileKey(name.slice("grad.".length)));
    assert(target, `the gradient ${name} belongs to a leaf`);
    if (
      target.kind === "leaf" &&
      adapter.parts.get(target.part)!.leaves[target.leaf].kind === "derived"
    ) {
      const found = pieces.get(target.part) ?? {};
      pieces.set(target.part, { ...found, [target.leaf]: expected.get(name) });
      continue;
    }
    const { leaf, transposed } = leafAt(model, target);
    const { shape } = expected.get(name);
    const values = await toFloat32(expected.get(name));
    const sum = sums.get(leaf) ?? new Float32Array(values.length);
    values.forEach((value, i) => {
      sum[transposed ? (i % shape[1]) * shape[0] + Math.floor(i / shape[1]) : i] += value;
    });
    sums.set(leaf, sum);
  }
  for (const [id, found] of pieces) {
    for (const [name, { read }] of Object.entries(adapter.parts.get(id)!.leaves)) {
      if (!read) continue;
      const own = Object.entries(found).filter(([piece]) => piece.startsWith(`${name}.`));
      const all = leavesAt(adapter, id)!;
      sums.set(leafName(0, id, name), await read(Object.fromEntries(own), all));
    }
  }
  return sums;
}
