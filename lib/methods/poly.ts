/**
 * Poly: polytropon (Ponti et al., 2022, arXiv:2202.13914), with multi-head routing (Caccia et al., 2022,
 * arXiv:2211.03831).
 *
 * A layer has an inventory of low-rank skills, and a router says for each task how much of each skill it
 * takes: y = W·x + A·B·x / r, with A and B the weighted sums of the skills' own. With several splits each
 * part of the features has its own weights. In training the weights are drawn from relaxed Bernoulli
 * distributions.
 *
 * @module
 */
import type { BatchInput } from "../model/batch-input.ts";
import type { Site } from "../model/site.ts";
import { ConfigError } from "../errors.ts";
import { add, div, log, max, min, mul, sigmoid, sub } from "../ops/elementwise.ts";
import { gather } from "../ops/gather.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import {
  commonFields,
  type ConfigSchema,
  field,
  parseConfig,
  type PeftConfig,
  type TargetConfig,
  targetFields,
} from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import type { InitSource, PeftMethod, SiteTrace } from "./method.ts";
import type { ForwardRule } from "./site-rule.ts";

/** A Poly config with every field, as {@link polyConfig} makes it. */
export interface PolyConfig
  extends
    PeftConfig,
    Required<Pick<TargetConfig, "targetModules" | "excludeModules" | "modulesToSave">> {
  /** `"POLY"`. */
  readonly peftType: "POLY";
  /** Rank of a skill. 8 by default. */
  readonly r: number;
  /** Whether an adapter begins as nothing; with random skills otherwise. */
  readonly initWeights: boolean;
  /** `"poly"`. */
  readonly polyType: "poly";
  /** Number of tasks. 1 by default. */
  readonly nTasks: number;
  /** Number of skills of each layer. 4 by default. */
  readonly nSkills: number;
  /** Number of parts of a layer's features that have weights of their own. 1 by default. */
  readonly nSplits: number;
}

const { targetModules, excludeModules, modulesToSave } = targetFields();

const schema: ConfigSchema<PolyConfig> = {
  peftType: "POLY",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  example: { nTasks: 2, nSplits: 2 },
  fields: {
    ...commonFields("POLY"),
    r: field.integer(8, 1),
    targetModules,
    excludeModules,
    modulesToSave,
    initWeights: field.boolean(true),
    polyType: field.choice("poly", ["poly"]),
    nTasks: field.integer(1, 1),
    nSkills: field.integer(4, 1),
    nSplits: field.integer(1, 1),
  },
};

/**
 * A complete Poly config (Ponti et al., 2022, arXiv:2202.13914).
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields.
 *
 * @example
 * ```ts
 * import { polyConfig } from "@graft/peft";
 * console.log(polyConfig({ nTasks: 3, nSkills: 2 }).r); // 8
 * ```
 */
export function polyConfig(config: Partial<PolyConfig> = {}): PolyConfig {
  return parseConfig(schema, config);
}

/** The task of each row of a batch. */
function taskIds({ nTasks }: PolyConfig): BatchInput {
  return {
    name: "taskIds",
    axes: ["batch"],
    dtype: "i32",
    from: 0,
    to: nTasks - 1,
    doc: `Number of each row's task [B], from 0 to ${nTasks - 1}.`,
  };
}

const rule: ForwardRule<PolyConfig> = {
  forward(trace, { x, result }) {
    const { config, site, leaves } = trace, { inFeatures, outFeatures } = site;
    const weights = skillWeights(trace); // [q, B, s]
    const { nSplits: q, r } = config, [, batch] = weights.shape;
    const mixed = (skills: Value) =>
      reshape(matmul(weights, reshape(skills, [q, config.nSkills, -1])), [
        q,
        batch,
        ...skills.shape.slice(2),
      ]);
    // [q, B, in/q, r] → [B, in, r], and [q, B, r, out/q] → [B, r, out]
    const a = reshape(transpose(mixed(leaves.poly_lora_A), [1, 0, 2, 3]), [batch, inFeatures, r]);
    const b = reshape(transpose(mixed(leaves.poly_lora_B), [1, 2, 0, 3]), [batch, r, outFeatures]);
    const inner = mul(matmul(reshape(x, [batch, -1, inFeatures]), a), 1 / r);
    return add(result, reshape(matmul(inner, b), result.shape));
  },
};

/** The smallest step of f32 at 1, which keeps logarithms finite. */
const EPSILON = 2 ** -23;

/** How much of each skill each split of each row takes, [splits, B, skills]. */
function skillWeights({ pass, config, site, leaves }: SiteTrace<PolyConfig>): Value {
  const { nSplits, nSkills } = config;
  const tasks = pass.batchInput(taskIds(config)), [batch] = tasks.shape;
  const shape = [batch, nSplits, nSkills];
  const logits = reshape(gather(leaves.poly_router, tasks), shape);
  const clamped = (p: Value) => min(max(p, EPSILON), 1 - EPSILON);
  const odds = (p: Value) => sub(log(p), log(sub(1, p)));
  const share = pass.training
    ? sigmoid(
      add(odds(clamped(pass.noise(site.path, shape))), odds(clamped(sigmoid(logits)))),
    )
    : sigmoid(logits);
  const weights = div(share, add(sum(share, { axes: [2], keepDims: true }), 1e-12));
  return transpose(weights, [1, 0, 2]);
}

/** The method `POLY`. */
export const poly: PeftMethod<PolyConfig> = {
  name: "poly",
  config: schema,
  leaves: {
    site({ config, site }) {
      const { nTasks, nSkills, nSplits, r, initWeights } = config;
      const { inFeatures, outFeatures } = site;
      checkSplits(config, site);
      const a = [nSplits, nSkills, inFeatures / nSplits, r];
      const b = [nSplits, nSkills, r, outFeatures / nSplits];
      const router = [nTasks, nSplits * nSkills];
      return {
        poly_lora_A: { shape: a, init: (from) => drawn(from, a) },
        poly_lora_B: {
          shape: b,
          init: (from) =>
            initWeights ? new Float32Array(nSkills * r * outFeatures) : drawn(from, b),
        },
        poly_router: {
          shape: router,
          key: "poly_router.module_logits",
          init: ({ random }) => random.uniform(router[0] * router[1], { low: -1e-3, high: 1e-3 }),
        },
      };
    },
  },
  sites: () => ({ linear: rule }),
  pass: { inputs: (config) => [taskIds(config)] },
};

function checkSplits({ nSplits }: PolyConfig, { path, inFeatures, outFeatures }: Site): void {
  if (inFeatures % nSplits === 0 && outFeatures % nSplits === 0) return;
  throw new ConfigError(
    "CONFIG_POLY_SPLITS",
    `nSplits ${nSplits} must divide the features of each module; ${path} has ${inFeatures} in and ${outFeatures} out.`,
    { path, nSplits },
  );
}

/**
 * Kaiming-uniform skills, skill by skill and split by split, each drawn as the transpose of what is
 * stored: [columns, rows].
 */
function drawn(
  { random }: InitSource,
  [splits, skills, rows, columns]: readonly number[],
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(splits * skills * rows * columns);
  // The bound of torch's kaiming_uniform_ with a = √5, by the last axis of what is drawn.
  const bound = 1 / Math.sqrt(rows);
  for (let skill = 0; skill < skills; skill++) {
    for (let split = 0; split < splits; split++) {
      const values = random.uniform(rows * columns, { low: -bound, high: bound });
      const start = (split * skills + skill) * rows * columns;
      for (let i = 0; i < rows; i++) {
        for (let j = 0; j < columns; j++) {
          out[start + i * columns + j] = values[j * rows + i];
        }
      }
    }
  }
  return out;
}
