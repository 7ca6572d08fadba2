/**
 * AdaLoRA: adaptive budget allocation (Zhang et al., 2023, arXiv:2303.10512).
 *
 * A linear layer becomes y = W·x + s·B·diag(E)·A·x, with A and B kept near orthogonal by a penalty, so
 * that E holds something like singular values. While training, a budget of ranks shrinks from `initR` to
 * `targetR` per layer, and those of the least important triplets (a row of A, an element of E, a column
 * of B) anywhere in the model are set to zero; the trained adapter lacks them.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import { fanIn, isOutIn, parameterShapes, type Site } from "../model/site.ts";
import { inputRows, outputOf } from "../model/site-product.ts";
import { abs, add, max, mul, sqrt, sub } from "../ops/elementwise.ts";
import { constant } from "../ops/constant.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import type { Value } from "../ops/value.ts";
import { toFloat32 } from "../tensor/convert.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { rowsOf } from "../tensor/rows.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import {
  commonFields,
  type ConfigFields,
  type ConfigSchema,
  described,
  field,
  parseConfig,
} from "./config.ts";
import { type LoraConfig, loraSchema, variantFields } from "./lora/lora-config.ts";
import type { InitSource, Leaf, LeafRule, Leaves, PeftMethod, SiteTrace } from "./method.ts";
import { checkConvolution, type DeltaRule, scaled } from "./site-rule.ts";
import type { MethodTraining, RuleTrace, StepTime, TrainedAdapter } from "./training-rule.ts";

/**
 * An AdaLoRA config with every field, as {@link adaLoraConfig} makes it: LoRA's fields, of which `r`,
 * `alphaPattern`, `useRslora`, `loraBias` and names of initializations have no effect, and its own.
 */
export interface AdaLoraConfig extends Omit<LoraConfig, "peftType" | "rankPattern"> {
  /** `"ADALORA"`. */
  readonly peftType: "ADALORA";
  /** Ranks per layer, on average, that are left in the end. 8 by default. */
  readonly targetR: number;
  /** Rank that each layer begins with. 12 by default. */
  readonly initR: number;
  /** Steps before ranks are taken away. */
  readonly tinit: number;
  /** Steps at the end in which ranks stay as they are. */
  readonly tfinal: number;
  /** Steps from one allocation to the next. */
  readonly deltaT: number;
  /** Decay of the running mean of how much the loss depends on an element. 0.85 by default. */
  readonly beta1: number;
  /** Decay of the running mean of how much that varies. 0.85 by default. */
  readonly beta2: number;
  /** Weight of the penalty that keeps A and B orthogonal. 0.5 by default. */
  readonly orthRegWeight: number;
  /** Steps of the whole training; must be given. */
  readonly totalStep: number | null;
  /**
   * Which ranks of each layer are left, by `<module path>.lora_E`. Training sets it; `null` before.
   */
  readonly rankPattern: Readonly<Record<string, readonly boolean[]>> | null;
}

const QV: readonly string[] = ["q_proj", "v_proj"];
const ALL_PROJECTIONS: readonly string[] = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"];

/** What is adapted by default, by `model_type`: PEFT's own choice. */
const ADALORA_TARGETS: Readonly<Record<string, readonly string[]>> = {
  bart: ALL_PROJECTIONS,
  bert: ["query", "value"],
  bloom: ["query_key_value"],
  deberta: ["in_proj"],
  "deberta-v2": ["query_proj", "key_proj", "value_proj", "dense"],
  gemma: QV,
  gemma2: QV,
  gemma3_text: QV,
  gpt2: ["c_attn"],
  gpt_bigcode: ["c_attn"],
  gpt_neo: QV,
  gpt_neox: ["query_key_value"],
  gptj: QV,
  llama: QV,
  llama4: QV,
  mt5: ["q", "k", "v", "o", "wi_0", "wi_1", "wo"],
  nemotron_h: ["q_proj", "k_proj", "v_proj", "o_proj"],
  opt: ALL_PROJECTIONS,
  qwen2: QV,
  qwen3: QV,
  roberta: ["query", "key", "value", "dense"],
  t5: ["q", "k", "v", "o", "wi", "wo"],
};

const { peftType: _type, rankPattern: _pattern, ...loraFields } = loraSchema.fields;

const schema: ConfigSchema<AdaLoraConfig> = {
  peftType: "ADALORA",
  extends: "LORA",
  targets: ADALORA_TARGETS,
  mixes: true,
  isIdentityAtInit: true,
  example: { totalStep: 10 },
  fields: {
    ...(loraFields as Omit<ConfigFields<LoraConfig>, "peftType" | "rankPattern">),
    ...commonFields("ADALORA"),
    targetR: field.integer(8, 1),
    initR: field.integer(12, 0),
    tinit: field.integer(0, 0),
    tfinal: field.integer(0, 0),
    deltaT: described(field.integer(1, 1), { json: "deltaT" }),
    beta1: field.float(0.85),
    beta2: field.float(0.85),
    orthRegWeight: field.number(0.5),
    totalStep: z.int().nullable().default(null).describe("a whole number above 0"),
    rankPattern: z.record(z.string(), z.array(z.boolean())).nullable().default(null)
      .describe("an object of lists of true and false by module path, or null"),
  },
  check(config) {
    const { loftqConfig, totalStep, tinit, tfinal, orthRegWeight, beta1, beta2 } = config;
    if (config.targetParameters?.length) {
      throw refuse("targetParameters", "AdaLoRA does not support parameters (targetParameters).");
    }
    if (loftqConfig && Object.keys(loftqConfig).length) {
      throw refuse("loftqConfig", "AdaLoRA does not support LoftQ (loftqConfig).");
    }
    const init = typeof config.initLoraWeights === "string" ? true : config.initLoraWeights;
    const plain = { ...config, peftType: "LORA", rankPattern: {}, initLoraWeights: init } as const;
    const [variant] = variantFields(plain);
    if (variant) throw refuse(variant, `AdaLoRA does not support variants of LoRA (${variant}).`);
    loraSchema.check!(plain);
    if (totalStep === null || totalStep <= 0) {
      throw refuse(
        "totalStep",
        `AdaLoRA does not work without totalStep, the number of steps of the whole training; found ${totalStep}. Supply a value above 0.`,
      );
    }
    if (orthRegWeight < 0) {
      throw refuse("orthRegWeight", `orthRegWeight must be 0 or more; found ${orthRegWeight}.`);
    }
    if (![beta1, beta2].every((beta) => beta > 0 && beta < 1)) {
      throw refuse(
        "beta1",
        `beta1 and beta2 must be between 0 and 1; found ${beta1} and ${beta2}.`,
      );
    }
    if (tinit >= totalStep - tfinal) {
      throw refuse(
        "tinit",
        `The schedule leaves no steps to take ranks away: tinit ${tinit} and tfinal ${tfinal} of ${totalStep}. ` +
          "Decrease tinit or tfinal, or increase totalStep.",
      );
    }
  },
};

function refuse(name: string, message: string): ConfigError {
  return new ConfigError("CONFIG_ADALORA", message, { field: name });
}

/**
 * A complete AdaLoRA config (Zhang et al., 2023, arXiv:2303.10512).
 *
 * @param config The fields to set, `totalStep` among them; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for schedules that cannot be.
 *
 * @example
 * ```ts
 * import { adaLoraConfig } from "@graft/peft";
 * console.log(adaLoraConfig({ totalStep: 1000, tinit: 200, tfinal: 300 }).initR); // 12
 * ```
 */
export function adaLoraConfig(config: Partial<AdaLoraConfig> = {}): AdaLoraConfig {
  return parseConfig(schema, config);
}

type Trace = SiteTrace<AdaLoraConfig>;

const rule: DeltaRule<AdaLoraConfig> = {
  delta(trace) {
    const { leaves: { lora_A, lora_E, lora_B }, site } = trace;
    const a = mul(mul(lora_A, lora_E), scaleOf(trace.config));
    return isOutIn(site)
      ? reshape(matmul(lora_B, a), parameterShapes(site).weight)
      : matmul(a, lora_B, { transposeA: true, transposeB: true });
  },
  // Where no rank is left, nothing is added.
  forward(trace, { x, result }) {
    const { leaves: { lora_A, lora_E, lora_B }, pass, config, multiplier, site } = trace;
    if (lora_A.shape[0] === 0) return result;
    const a = mul(mul(lora_A, lora_E), scaleOf(config));
    const rows = inputRows(site, pass.dropout(x, config.loraDropout));
    const change = matmul(matmul(rows, a, { transposeB: true }), lora_B, { transposeB: true });
    return add(result, scaled(outputOf(site, change), multiplier));
  },
  weight: (trace: Trace, values) =>
    trace.leaves.lora_A.shape[0] === 0 ? values : {
      ...values,
      weight: add(values.weight, scaled(rule.delta(trace), trace.multiplier)),
    },
};

/** Not divided by the rank, but by the rank that the layer began with. */
function scaleOf({ loraAlpha, initR }: AdaLoraConfig): number {
  return (loraAlpha > 0 ? loraAlpha : initR) / (initR + 1e-5);
}

/** Which ranks of a site are left; `undefined` for all of them. */
function keptAt({ rankPattern }: AdaLoraConfig, { path }: Site): readonly boolean[] | undefined {
  return rankPattern?.[`${path}.lora_E`];
}

function rankAt(config: AdaLoraConfig, site: Site): number {
  return keptAt(config, site)?.filter(Boolean).length ?? config.initR;
}

function shapesOf(
  config: AdaLoraConfig,
  site: Site,
): Readonly<Record<typeof LEAVES[number], readonly number[]>> {
  const r = rankAt(config, site), { outFeatures } = site;
  return { lora_A: [r, fanIn(site)], lora_B: [outFeatures, r], lora_E: [r, 1] };
}

const LEAVES = ["lora_A", "lora_B", "lora_E"] as const;

/** The method `ADALORA`. */
export const adaLora: PeftMethod<AdaLoraConfig> = {
  name: "adalora",
  prefix: "lora_",
  config: schema,
  leaves: {
    site({ config, site }): Readonly<Record<string, LeafRule>> {
      checkConvolution("ADALORA", site, { ranks: [2] });
      const shapes = shapesOf(config, site);
      let made: Readonly<Record<string, Leaf>> | undefined;
      const init = (leaf: string) => (from: InitSource) =>
        (made ??= draw(config, site, from))[leaf];
      return {
        lora_A: { shape: shapes.lora_A, init: init("lora_A") },
        lora_E: { shape: shapes.lora_E, init: init("lora_E") },
        lora_B: { shape: shapes.lora_B, init: init("lora_B") },
      };
    },
  },
  sites: () => ({ linear: rule, conv1d: rule, conv: rule }),
  training: allocation,
};

/** Takes the numbers that PEFT draws for a site, for the parameters first and then for their values. */
function draw(
  { initR: r, initLoraWeights }: AdaLoraConfig,
  site: Site,
  { random }: InitSource,
): Readonly<Record<string, Leaf>> {
  const { outFeatures } = site, inputs = fanIn(site);
  const first = {
    lora_A: random.normal(r * inputs),
    lora_E: random.normal(r),
    lora_B: random.normal(outFeatures * r),
  };
  random.normal(1); // the number of ranks, which is then set
  if (initLoraWeights === false) return first;
  return {
    lora_A: random.normal(r * inputs, { std: 0.02 }),
    lora_E: new Float32Array(r),
    lora_B: random.normal(outFeatures * r, { std: 0.02 }),
  };
}

/** The penalty, importance as state, and ranks that are taken away between steps. */
function allocation(adapter: TrainedAdapter<AdaLoraConfig>): MethodTraining<AdaLoraConfig> {
  const { config, nameOf } = adapter;
  const sites = adapter.sites.filter((site) => rankAt(config, site) > 0);
  const { beta1, beta2 } = config;
  const end = config.totalStep! - config.tfinal;
  const filled = (shape: readonly number[], value: number) =>
    tensor(new Float32Array(sizeOf(shape)).fill(value), { shape });
  const state: Record<string, Tensor> = {};
  for (const site of sites) {
    for (const leaf of LEAVES) {
      for (const part of ["mean", "change"]) {
        state[`${part}.${site.path}.${leaf}`] = filled(shapesOf(config, site)[leaf], 0);
      }
    }
    state[`mask.${site.path}`] = filled(shapesOf(config, site).lora_E, 1);
  }
  /** PEFT's loops count steps from 0. */
  const stepOf = ({ step }: StepTime) => step - 1;
  const flag = (holds: (step: number) => boolean) => ({
    shape: [1],
    dtype: "f32" as const,
    at: (time: StepTime) => tensor(Float32Array.of(Number(holds(stepOf(time))))),
  });
  return {
    state,
    // Importance is measured until ranks stay as they are; from then on what was taken stays zero.
    inputs: { measured: flag((step) => step < end), settled: flag((step) => step > end) },
    penalty: (trace) => orthogonality(trace, adapter, sites),
    afterStep({ leaves, gradients, state, inputs: { measured, settled } }) {
      const next: Record<string, Value> = {}, changed = new Map<string, Value>();
      const moved = (old: Value, value: Value, beta: number) =>
        add(old, mul(sub(value, old), mul(measured, 1 - beta)));
      for (const site of sites) {
        for (const leaf of LEAVES) {
          const name = nameOf(leaf, site), key = `${site.path}.${leaf}`;
          const importance = abs(mul(leaves.get(name)!, gradients.get(name)!));
          const mean = moved(state[`mean.${key}`], importance, beta1);
          next[`mean.${key}`] = mean;
          next[`change.${key}`] = moved(state[`change.${key}`], abs(sub(importance, mean)), beta2);
        }
        const name = nameOf("lora_E", site), e = leaves.get(name)!;
        changed.set(name, sub(e, mul(mul(e, sub(1, state[`mask.${site.path}`])), settled)));
      }
      return { state: next, leaves: changed };
    },
    async betweenSteps(time, run) {
      const step = stepOf(time), { tinit, deltaT, targetR, initR } = config;
      const forced = step === end;
      if (!forced && (step >= end || step <= tinit || step % deltaT !== 0)) return;
      const first = initR * sites.length, last = targetR * sites.length;
      const left = forced ? 0 : 1 - (step - tinit) / (end - tinit);
      const budget = Math.trunc((first - last) * left ** 3 + last);
      if (budget >= first) return;
      const masks = await allocate(sites, await run.state(), budget);
      const leaves = await run.leaves();
      const cleared = await Promise.all(sites.map(async (site, i) => {
        const name = nameOf("lora_E", site), e = leaves.get(name)!;
        const values = (await toFloat32(e)).map((x, k) => x * masks[i][k]);
        return [name, tensor(values, { shape: e.shape })] as const;
      }));
      await run.writeLeaves(new Map(cleared));
      await run.writeState(Object.fromEntries(
        sites.map((
          { path },
          i,
        ) => [`mask.${path}`, tensor(masks[i], { shape: [masks[i].length, 1] })]),
      ));
    },
    async finish(trained, state) {
      const pattern: Record<string, readonly boolean[]> = {};
      const kept = new Map(trained.sites);
      for (const site of sites) {
        const mask = [...await toFloat32(state[`mask.${site.path}`])].map((x) => x > 0);
        const before = keptAt(config, site) ?? mask.map(() => true);
        let at = 0;
        pattern[`${site.path}.lora_E`] = before.map((had) => had && mask[at++]);
        kept.set(site.path, await withRanks(trained.sites.get(site.path)!, mask));
      }
      const some = Object.values(pattern).some((list) => list.includes(false));
      return some ? { config: { ...config, rankPattern: pattern }, sites: kept } : trained;
    },
  };
}

/** The mean over A and B of all sites of ‖P·Pᵀ − I‖ (Frobenius), with its weight. */
function orthogonality(
  { leaves, graph }: RuleTrace,
  { config, nameOf }: TrainedAdapter<AdaLoraConfig>,
  sites: readonly Site[],
): Value {
  const norms = sites.flatMap((site) =>
    (["lora_A", "lora_B"] as const).map((leaf) => {
      const p = leaves.get(nameOf(leaf, site))!;
      const product = leaf === "lora_A"
        ? matmul(p, p, { transposeB: true })
        : matmul(p, p, { transposeA: true });
      const [r] = product.shape;
      const diagonal = Array.from({ length: r * r }, (_, i) => i % (r + 1) ? 0 : 1);
      const rest = sub(product, constant(graph, diagonal, { shape: [r, r] }));
      // The root has no slope at zero.
      return sqrt(max(sum(mul(rest, rest)), 1e-30));
    })
  );
  return mul(norms.reduce((a, b) => add(a, b)), config.orthRegWeight / norms.length);
}

/** Which ranks stay when so many do: per site, 1 or 0 for each. */
async function allocate(
  sites: readonly Site[],
  state: Readonly<Record<string, Tensor>>,
  budget: number,
): Promise<readonly Float32Array<ArrayBuffer>[]> {
  const scores = await Promise.all(sites.map(async ({ path }) => {
    const of = async (leaf: string) => {
      const [mean, change] = await Promise.all(
        ["mean", "change"].map((part) => toFloat32(state[`${part}.${path}.${leaf}`])),
      );
      return mean.map((x, i) => x * change[i]);
    };
    const [a, b, e] = [await of("lora_A"), await of("lora_B"), await of("lora_E")];
    const r = e.length, inputs = a.length / r, outputs = b.length / r;
    return e.map((score, k) => {
      let rows = 0, columns = 0;
      for (let i = 0; i < inputs; i++) rows += a[k * inputs + i];
      for (let o = 0; o < outputs; o++) columns += b[o * r + k];
      return score + (rows / inputs + columns / outputs);
    });
  }));
  const sorted = Float32Array.from(scores.flatMap((list) => [...list])).sort();
  const threshold = sorted[sorted.length - budget - 1];
  return scores.map((list) => Float32Array.from(list, (score) => score <= threshold ? 0 : 1));
}

/** Leaves of a site with the ranks that a mask keeps. */
async function withRanks(
  { lora_A, lora_E, lora_B }: Leaves,
  mask: readonly boolean[],
): Promise<Leaves> {
  const kept = mask.flatMap((keep, k) => keep ? [k] : []), count = kept.length;
  const rows = async (all: Tensor) =>
    tensor(await rowsOf(all, kept), { shape: [count, all.shape[1]] });
  const b = await toFloat32(lora_B), [outputs, r] = lora_B.shape;
  const columns = Float32Array.from(
    { length: outputs * count },
    (_, i) => b[Math.floor(i / count) * r + kept[i % count]],
  );
  return {
    lora_A: await rows(lora_A),
    lora_E: await rows(lora_E),
    lora_B: tensor(columns, { shape: [outputs, count] }),
  };
}
