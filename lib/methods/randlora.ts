/**
 * RandLoRA: full-rank updates from random bases (Albert et al., 2025, arXiv:2502.00987).
 *
 * A linear layer becomes y = W·x + (α/r) · Σₙ Bₙ·Λₙ·A·Γₙ·x over as many bases n as its smaller side
 * has multiples of r. A [r, min] and Bₙ [max, r] are random and fixed, those of the largest layer
 * for the whole adapter, where min and max are the smaller and the larger side; they change places
 * where a layer has fewer outputs than inputs. Trained are the diagonals Λ [r, N] and Γ [N, min].
 *
 * @module
 */
import type { Site } from "../model/site.ts";
import type { LowRank } from "../model/weight.ts";
import { mul } from "../ops/elementwise.ts";
import { reshape } from "../ops/reshape.ts";
import { slice } from "../ops/slice.ts";
import { transpose } from "../ops/transpose.ts";
import { float32ToBits } from "../tensor/convert.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { commonFields, type ConfigSchema, field, parseConfig } from "./config.ts";
import { ATTENTION_TARGETS } from "./default-targets.ts";
import { lowRankRule } from "./low-rank.ts";
import type { LeafRule, PeftMethod, SiteTrace } from "./method.ts";
import { largest, projection, type ProjectionConfig, projectionFields } from "./projections.ts";
import { createTorchRandom, type TorchRandom } from "./torch-random.ts";

/**
 * A RandLoRA config with every field, as {@link randLoraConfig} makes it. r is 32 by default; the
 * smaller it is, the more is trained.
 */
export interface RandLoraConfig extends ProjectionConfig {
  /** `"RANDLORA"`. */
  readonly peftType: "RANDLORA";
  /** Whether the projections hold only −s, 0 and s, with probabilities 1/6, 2/3 and 1/6. */
  readonly sparse: boolean;
  /** The same with probabilities 1/(2√min), and the rest for 0; comes before `sparse`. */
  readonly verySparse: boolean;
  /**
   * Probability with which an input feature is dropped before the projections in training, from 0
   * up to, but not including, 1. 0 by default.
   */
  readonly randloraDropout: number;
  /** The update is scaled by this over r. 640 by default. */
  readonly randloraAlpha: number;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"randlora_only"`,
   * those of the adapted modules.
   */
  readonly bias: "none" | "all" | "randlora_only";
}

const schema: ConfigSchema<RandLoraConfig> = {
  peftType: "RANDLORA",
  targets: ATTENTION_TARGETS,
  isIdentityAtInit: true,
  example: { r: 8, randloraAlpha: 4 },
  fields: {
    ...commonFields("RANDLORA"),
    ...projectionFields(32),
    sparse: field.boolean(false),
    verySparse: field.boolean(false),
    randloraDropout: field.probability(0),
    randloraAlpha: field.number(640),
    bias: field.choice("none", ["none", "all", "randlora_only"]),
  },
};

/**
 * A complete RandLoRA config (Albert et al., 2025, arXiv:2502.00987): random bases that all layers
 * share and that stay as they are, and learned diagonals between them.
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields.
 *
 * @example
 * ```ts
 * import { randLoraConfig } from "@graft/peft";
 * const config = randLoraConfig({ r: 16, randloraAlpha: 320, sparse: true });
 * console.log(config.saveProjection); // true
 * ```
 */
export function randLoraConfig(config: Partial<RandLoraConfig> = {}): RandLoraConfig {
  return parseConfig(schema, config);
}

const smaller = ({ inFeatures, outFeatures }: Site) => Math.min(inFeatures, outFeatures);
const larger = ({ inFeatures, outFeatures }: Site) => Math.max(inFeatures, outFeatures);

function factors({ config, site, leaves, shared }: SiteTrace<RandLoraConfig>): LowRank {
  const { r, randloraAlpha } = config, { randlora_lambda, randlora_gamma } = leaves;
  const [bases, min] = randlora_gamma.shape, max = larger(site);
  const first = (x: typeof randlora_gamma, sizes: readonly number[]) =>
    slice(x, { starts: sizes.map(() => 0), sizes });
  const a = mul(
    mul(first(shared.randlora_A, [r, 1, min]), reshape(randlora_lambda, [r, bases, 1])),
    mul(randlora_gamma, randloraAlpha / r),
  );
  // As in PEFT, columns of B count basis by basis, and rows of A rank by rank.
  const inner = reshape(a, [r * bases, min]);
  const outer = reshape(first(shared.randlora_B, [max, bases, r]), [max, bases * r]);
  return min === site.inFeatures
    ? { left: outer, right: inner }
    : { left: transpose(inner), right: transpose(outer) };
}

const rule = lowRankRule(factors, ({ randloraDropout }: RandLoraConfig) => randloraDropout);

/** The method `RANDLORA`. */
export const randLora: PeftMethod<RandLoraConfig> = {
  name: "randlora",
  config: schema,
  leaves: {
    adapter: ({ config, sites }) => projections(config, sites),
    site({ config, site, sites }) {
      const { r, initWeights } = config, min = smaller(site), bases = Math.ceil(min / r);
      const copies = Object.entries(projections(config, sites))
        // PEFT's files hold the projections again for each layer.
        .map(([leaf, { key, ...rule }]) => [leaf, { ...rule, shares: leaf, key: key && leaf }]);
      return {
        randlora_lambda: {
          shape: [r, bases],
          init({ random }) {
            const drawn = random.normal(r * bases);
            return initWeights ? drawn.fill(0) : drawn;
          },
        },
        randlora_gamma: {
          shape: [bases, min],
          init: () =>
            new Float32Array(bases * min)
              .fill(1 / (initWeights ? Math.max(bases, min) : larger(site))),
        },
        ...Object.fromEntries(copies),
      };
    },
  },
  sites: () => ({ linear: rule, conv1d: rule }),
};

/** The projections A [r, 1, min] and B [max, N, r], whose elements have the standard deviation 1. */
function projections(
  config: RandLoraConfig,
  sites: readonly Site[],
): Readonly<Record<"randlora_A" | "randlora_B", LeafRule>> {
  const { r, projectionPrngKey, sparse, verySparse } = config;
  const sides = [largest(sites, (s) => s.inFeatures), largest(sites, (s) => s.outFeatures)];
  const min = Math.min(...sides), max = Math.max(...sides), bases = Math.ceil(min / r);
  const random = createTorchRandom(projectionPrngKey);
  const ternary = verySparse ? Math.sqrt(min) : sparse ? 3 : undefined;
  const made = (
    name: string,
    { shape, rank }: { readonly shape: readonly number[]; readonly rank: number },
    draw: () => Float32Array<ArrayBuffer>,
  ): LeafRule =>
    projection(name, config, {
      shape,
      // A second adapter's file holds the projections of the first, which may be larger.
      accepts: (found) =>
        found.length === 3 && found[rank] === r && found.every((n, i) => n >= shape[i]),
      init: () =>
        ternary
          ? normalized(signs(random.uniform(sizeOf(shape)), ternary))
          : bf16(normalized(draw(), bf16)),
    });
  return {
    randlora_A: made(
      "randlora_A",
      { shape: [r, 1, min], rank: 0 },
      () => halfUniform(random, r * min, min),
    ),
    randlora_B: made("randlora_B", { shape: [max, bases, r], rank: 2 }, () => {
      const b = new Float32Array(max * bases * r);
      for (let n = 0; n < bases; n++) {
        const basis = halfUniform(random, max * r, r);
        for (let i = 0; i < max; i++) {
          b.set(basis.subarray(i * r, (i + 1) * r), (i * bases + n) * r);
        }
      }
      return b;
    }),
  };
}

/** To the nearest numbers of 16 bits with the exponents of f32. */
function bf16(values: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  return new Float32Array(Uint32Array.from(float32ToBits(values, "bf16"), (x) => x << 16).buffer);
}

/** Numbers between ±1/√fanIn as torch draws them in bfloat16: what is rounded up to the end begins anew. */
function halfUniform(random: TorchRandom, size: number, fanIn: number): Float32Array<ArrayBuffer> {
  const bound = Math.sqrt(3) * (Math.sqrt(2 / 6) / Math.sqrt(fanIn));
  const [end] = bf16(Float32Array.of(bound));
  return bf16(random.uniform(size, { low: -bound, high: bound })).map((x) => x === end ? -end : x);
}

/** Signs of numbers near 0 and near 1, one of `sparsity` in all, and 0. */
function signs(drawn: Float32Array<ArrayBuffer>, sparsity: number): Float32Array<ArrayBuffer> {
  const share = 1 / (2 * sparsity), low = Math.fround(share), high = Math.fround(1 - share);
  return drawn.map((x) => x < low ? -1 : x > high ? 1 : 0);
}

/** Numbers over their standard deviation, which is rounded to their type. */
function normalized(
  values: Float32Array<ArrayBuffer>,
  round: (x: Float32Array<ArrayBuffer>) => Float32Array = (x) => x,
): Float32Array<ArrayBuffer> {
  let sum = 0, squares = 0;
  for (const x of values) sum += x;
  for (const x of values) squares += (x - sum / values.length) ** 2;
  const [deviation] = round(Float32Array.of(Math.sqrt(squares / (values.length - 1))));
  return values.map((x) => x / deviation);
}
