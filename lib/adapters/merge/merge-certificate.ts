/**
 * How exact a merge is: merged weights beside what they should be.
 *
 * @module
 */
import { ValueError } from "../../errors.ts";
import { checkOptions, NOT_NEGATIVE, show } from "../../options.ts";
import { castTensor, toFloat32 } from "../../tensor/convert.ts";
import type { DType } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { moduleOf } from "../plan/module-tree.ts";

/**
 * How far merged weights are from the exact sum E = W + Δ, in f64, of the base's weight W, as the
 * model computes with it (block-quantized ones dequantized), and the delta Δ of the adapters. S is
 * what is stored, in its type.
 */
export interface MergeError {
  /** The largest |S − E|. */
  readonly maxAbs: number;
  /** ‖S − E‖ / ‖Δ‖ in Frobenius norms: the share of the change that is wrong; 0 where Δ is 0. */
  readonly relativeFrobenius: number;
  /**
   * Of the weights with Δ ≠ 0, the share for which S is what W alone is in the same type: those
   * whose change was lost. 0 where there are none.
   */
  readonly fractionRoundedAway: number;
}

/** How exact one layer of a merged model is. */
export interface LayerCertificate extends MergeError {
  /** Its module path. */
  readonly path: string;
  /** Which of its parameters merging changed: `weight`, `bias`. */
  readonly parameters: readonly string[];
  /** Type of the base's weight, such as `bf16` or `q4_0`. */
  readonly base: DType;
  /** Type of the merged weight. */
  readonly dtype: DType;
  /** Number of weights. */
  readonly elements: number;
  /** For how many of them Δ ≠ 0. */
  readonly changed: number;
}

/** How exact a merged model is: over all its changed layers, and for each of them. */
export interface MergeCertificate extends MergeError {
  /** Names of the merged adapters, in order. */
  readonly adapters: readonly string[];
  /** Type of the merged weights. */
  readonly dtype: DType;
  /** The layers that changed, in order of execution. */
  readonly layers: readonly LayerCertificate[];
}

/** The largest error that a layer may have; what is absent has no limit. */
export type MergeTolerance = Partial<MergeError>;

/** A parameter that merging changes. */
export interface ChangedParameter {
  /** Its name. */
  readonly name: string;
  /** What the base has. */
  readonly before: Tensor;
  /** What the delta is added to: what the base has, or what an adapter puts in its place. */
  readonly start: Tensor;
  /** What the merged model has. */
  readonly stored: Tensor;
  /** The delta in f32; none where all of it is in `start`. */
  readonly delta?: () => Tensor;
}

/**
 * Refuses what is no tolerance.
 *
 * @throws {ValueError} `MERGE_OPTION`.
 */
export function checkTolerance(tolerance: number | MergeTolerance): void {
  checkOptions(limitsOf(tolerance), {
    maxAbs: NOT_NEGATIVE,
    relativeFrobenius: NOT_NEGATIVE,
    fractionRoundedAway: NOT_NEGATIVE,
  }, { code: "MERGE_OPTION", of: "tolerance" });
}

function limitsOf(tolerance: number | MergeTolerance): MergeTolerance {
  return typeof tolerance === "number" ? { relativeFrobenius: tolerance } : tolerance;
}

/**
 * Compares merged weights with what they should be, one parameter after the other, so that no more
 * than one is in memory at a time.
 *
 * A method that does more than add to weights or multiply their elements has a delta that is itself
 * the difference of two weights in f32; the rounding of that difference is then no part of the
 * error.
 *
 * @param changed What merging changed.
 * @param of The names of the adapters, the type of the merged weights, and how far a layer may be.
 * @throws {ValueError} `MERGE_NOT_FINITE` and `MERGE_TOLERANCE`, with the certificate in their
 * details.
 */
export async function mergeCertificate(
  changed: readonly ChangedParameter[],
  of: {
    readonly adapters: readonly string[];
    readonly dtype: DType;
    readonly tolerance?: number | MergeTolerance;
  },
): Promise<MergeCertificate> {
  const byPath = new Map<string, ChangedParameter[]>();
  for (const parameter of changed) {
    const path = moduleOf(parameter.name);
    byPath.set(path, [...byPath.get(path) ?? [], parameter]);
  }
  const layers: LayerCertificate[] = [];
  const all: Sums[] = [];
  for (const [path, parameters] of byPath) {
    const sums: Sums[] = [];
    for (const parameter of parameters) sums.push(await compare(parameter));
    const total = joined(sums);
    all.push(total);
    layers.push({
      path,
      parameters: parameters.map(({ name }) => name.slice(path.length + 1)),
      base: parameters[0].before.dtype,
      dtype: of.dtype,
      elements: total.elements,
      changed: total.changed,
      ...errorOf(total),
    });
  }
  const certificate = {
    adapters: of.adapters,
    dtype: of.dtype,
    ...errorOf(joined(all)),
    layers,
  };
  checkFinite(certificate, all);
  if (of.tolerance !== undefined) checkWithin(certificate, limitsOf(of.tolerance));
  return certificate;
}

interface Sums {
  readonly maxAbs: number;
  /** Σ (S − E)² */
  readonly errors: number;
  /** Σ Δ² */
  readonly deltas: number;
  readonly elements: number;
  readonly changed: number;
  readonly lost: number;
  /** Weights that are infinite or NaN, and how many of them are in E too. */
  readonly broken: number;
  readonly wrong: number;
}

async function compare({ before, start, stored, delta }: ChangedParameter): Promise<Sums> {
  const w = await toFloat32(before);
  const from = start === before ? w : await toFloat32(start);
  const added = delta && await toFloat32(delta());
  const s = await toFloat32(stored);
  const alone = await toFloat32(castTensor(castTensor(before, "f32"), stored.dtype));
  let maxAbs = 0, errors = 0, deltas = 0, changed = 0, lost = 0, broken = 0, wrong = 0;
  for (let i = 0; i < w.length; i++) {
    // Where nothing stands for W, Δ is known better than as a difference.
    const change = (from === w ? 0 : from[i] - w[i]) + (added ? added[i] : 0);
    const error = s[i] - (w[i] + change);
    if (!Number.isFinite(s[i])) {
      broken++;
      if (!Number.isFinite(w[i] + change)) wrong++;
      continue;
    }
    maxAbs = Math.max(maxAbs, Math.abs(error));
    errors += error * error;
    deltas += change * change;
    if (change !== 0) {
      changed++;
      if (s[i] === alone[i]) lost++;
    }
  }
  return { maxAbs, errors, deltas, elements: w.length, changed, lost, broken, wrong };
}

function joined(parts: readonly Sums[]): Sums {
  const total = (key: keyof Sums) => parts.reduce((sum, part) => sum + part[key], 0);
  return {
    maxAbs: parts.reduce((most, part) => Math.max(most, part.maxAbs), 0),
    errors: total("errors"),
    deltas: total("deltas"),
    elements: total("elements"),
    changed: total("changed"),
    lost: total("lost"),
    broken: total("broken"),
    wrong: total("wrong"),
  };
}

function errorOf({ maxAbs, errors, deltas, changed, lost }: Sums): MergeError {
  return {
    maxAbs,
    relativeFrobenius: deltas ? Math.sqrt(errors / deltas) : 0,
    fractionRoundedAway: changed ? lost / changed : 0,
  };
}

function checkFinite(certificate: MergeCertificate, sums: readonly Sums[]): void {
  const found = certificate.layers.flatMap((layer, i) =>
    sums[i].broken ? [{ path: layer.path, ...sums[i] }] : []
  );
  if (found.length === 0) return;
  const { dtype } = certificate;
  const overflow = found.every(({ wrong }) => wrong === 0);
  const adapters = certificate.adapters.map((name) => JSON.stringify(name)).join(", ");
  throw new ValueError(
    "MERGE_NOT_FINITE",
    `Merging ${adapters} gives weights that are infinite or NaN: ${
      list(found, ({ path, broken, elements }) => `${path} (${broken} of ${elements})`)
    }. ${
      overflow
        ? `They are finite until they are stored as ${dtype}: merge with dtype "f32"${
          dtype === "f16" ? ' or "bf16"' : ""
        }.`
        : "The adapter, or the base, holds such values itself: it is broken, perhaps by a training that diverged."
    }`,
    { layers: found.map(({ path }) => path), certificate },
  );
}

function checkWithin(certificate: MergeCertificate, limits: MergeTolerance): void {
  const { dtype } = certificate;
  const keys = Object.keys(limits) as (keyof MergeError)[];
  const beyond = certificate.layers.flatMap((layer) => {
    const over = keys.filter((key) => limits[key] !== undefined && layer[key] > limits[key]!);
    // The worst first: by how many times it is beyond.
    const excess = Math.max(0, ...over.map((key) => layer[key] / limits[key]!));
    return over.length ? [{ layer, over, excess }] : [];
  }).sort((a, b) => b.excess - a.excess);
  if (beyond.length === 0) return;
  const shown = ({ layer, over }: typeof beyond[number]) =>
    `${layer.path} (${
      over.map((key) => `${key} ${layer[key].toPrecision(3)} > ${limits[key]}`).join(", ")
    })`;
  throw new ValueError(
    "MERGE_TOLERANCE",
    `Merging loses more than the tolerance allows in ${beyond.length} of ${certificate.layers.length} layers: ${
      list(beyond, shown)
    }. ${
      dtype === "f32"
        ? "f32 is as exact as merged weights get: keep the adapter unmerged, or allow more."
        : `Merge with dtype "f32" instead of ${
          show(dtype)
        }, keep the adapter unmerged, or allow more.`
    }`,
    { layers: beyond.map(({ layer }) => layer.path), tolerance: limits, certificate },
  );
}

function list<T>(items: readonly T[], text: (item: T) => string): string {
  const rest = items.length - 5;
  return items.slice(0, 5).map(text).join("; ") + (rest > 0 ? `; and ${rest} more` : "");
}
