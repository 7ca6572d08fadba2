/**
 * What EVA measures: batches until no direction turns any more, and the ranks that follow.
 *
 * @module
 */
import { ConfigError, ValueError } from "../../errors.ts";
import { type FlatMatrix, flatMatrix, matrixTensor } from "../../methods/linalg.ts";
import {
  addRows,
  type Components,
  distributeRanks,
  evaFactor,
  type EvaLayer,
  roundHalfEven,
  settled,
} from "../../methods/lora/eva.ts";
import type { EvaConfig } from "../../methods/lora/init-config.ts";
import { type LoraConfig, loraShape } from "../../methods/lora/lora-config.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import {
  type CalibrationBatch,
  type CalibrationBatches,
  inputsOf,
  type InputsSeen,
  nothingSeen,
} from "../calibrate/observe.ts";

/** How far EVA has come. */
export interface EvaProgress {
  /** Batches so far. */
  readonly batches: number;
  /** Layers whose directions are found. */
  readonly settled: number;
  /** Layers in all. */
  readonly total: number;
}

/** What is known of the layers that have the same inputs. */
interface Measured {
  readonly most: number;
  components?: Components;
  /** How many of them have settled. */
  settled: number;
}

/**
 * The first directions of what goes into each of some linear layers, as many as its rank: A [rank,
 * in] by module path, in PEFT's order.
 *
 * @throws as `getEvaStateDict`.
 */
export async function measureEva(
  base: ModelGraph,
  of: {
    readonly sites: readonly Site[];
    readonly lora: LoraConfig;
    readonly options: {
      readonly batches?: CalibrationBatches;
      readonly onProgress?: (progress: EvaProgress) => void;
      readonly signal?: AbortSignal;
    };
  },
): Promise<ReadonlyMap<string, Tensor>> {
  const { lora, options: { batches, signal, onProgress } } = of, eva = lora.evaConfig!;
  if (batches === undefined) throw noBatches();
  const sites = new Map(
    of.sites.filter(({ kind }) => kind === "linear" || kind === "conv1d")
      .map((site) => [site.path, site]),
  );
  const rankOf = (path: string) => loraShape(lora, sites.get(path)!).r;
  const budget = [...sites.keys()].reduce((sum, path) => sum + rankOf(path), 0);
  const rho = eva.rho > FEW ? Math.min(eva.rho, Math.floor(widest(base) / lora.r)) : eva.rho;
  const mostOf = (path: string) => mostRanks(sites.get(path)!, roundHalfEven(rankOf(path) * rho));

  const known = new Map<string, Measured>();
  let layers: readonly EvaLayer[] = [], ranks: ReadonlyMap<string, number> = new Map();
  const again = { count: 0, whole: false };
  let done = 0;
  for await (
    const seen of inputsOf(base, {
      paths: [...sites.keys()],
      batches: cycled(batches, again),
      signal,
    })
  ) {
    if (known.size === 0) {
      for (const { paths } of seen.groups) {
        known.set(paths[0], { most: Math.max(...paths.map(mostOf)), settled: 0 });
      }
      layers = layersOf(seen, known);
      ranks = new Map(layers.map(({ path, most }) => [path, most]));
    }
    const turning = seen.groups.filter(({ paths: [first] }) =>
      known.get(first)!.settled < ranks.get(first)!
    );
    const missing = seen.groups.find(({ paths: [first] }) => !known.get(first)!.components);
    if (again.whole && missing) throw tooFew(missing.paths[0], known.get(missing.paths[0])!);
    const total = sites.size;
    const left = turning.reduce((sum, { paths }) => sum + paths.length, 0);
    onProgress?.({ batches: done, settled: total - left, total });
    if (turning.length === 0) break;
    const mask = await maskOf(seen, eva);
    (await seen.read(turning)).forEach((runs, i) => {
      const own = known.get(turning[i].paths[0])!;
      for (const x of runs) {
        const rows = chosenRows(x, mask);
        if (rows.rows < own.most) continue;
        const before = own.components;
        own.components = addRows(before, rows, own.most);
        if (before) own.settled = settled(before, own.components, eva.tau);
      }
    });
    done++;
    if ([...known.values()].some(({ components }) => !components)) continue;
    const explained = new Map(
      [...known].map(([path, { components }]) => [path, components!.explained]),
    );
    ranks = distributeRanks(layers, explained, budget);
  }
  if (known.size === 0) throw nothingSeen(0);
  return new Map(layers.map(({ path, first }) => {
    const rank = ranks.get(path)!, { components } = known.get(first)!;
    return [path, matrixTensor(evaFactor(components!, { rank, whiten: eva.whiten }))];
  }));
}

/** From here on PEFT bounds `rho` by the widest parameter. */
const FEW = 1000;

function widest({ parameters }: ModelGraph): number {
  return Math.max(...[...parameters.values()].flatMap(({ shape }) => shape));
}

function mostRanks({ path, inFeatures }: Site, most: number): number {
  if (most <= inFeatures) return most;
  throw new ConfigError(
    "CONFIG_EVA_RANK",
    `${path} can get ${most} ranks (rho times r), and has ${inFeatures} inputs, in which there are no more directions. Lower rho, r or rankPattern.`,
    { path, most, inFeatures },
  );
}

function tooFew(path: string, { most }: Measured): ValueError {
  return new ValueError(
    "CALIBRATION_BATCHES",
    `No batch has as many tokens as ${path} can get ranks, ${most} (rho times r), so that nothing is known of it. Give larger batches, or lower rho or r.`,
    { path, most },
  );
}

/** Layers in PEFT's order: the first of each group, then the others. */
function layersOf(
  { groups }: InputsSeen,
  known: ReadonlyMap<string, Measured>,
): readonly EvaLayer[] {
  const all = groups.map(({ paths }) =>
    paths.map((path) => ({ path, first: paths[0], most: known.get(paths[0])!.most }))
  );
  return [...all.map(([first]) => first), ...all.flatMap(([, ...others]) => others)];
}

/** Batches over and over; a stream is kept for that. */
async function* cycled(
  batches: CalibrationBatches,
  state: { whole: boolean },
): AsyncGenerator<CalibrationBatch> {
  const kept: CalibrationBatch[] = [];
  for await (const batch of batches) {
    kept.push(batch);
    yield batch;
  }
  state.whole = true;
  while (kept.length) yield* kept;
}

/** Which tokens of a batch count. */
async function maskOf(
  { given, tokens }: InputsSeen,
  { useLabelMask, labelMaskValue }: EvaConfig,
): Promise<Int32Array> {
  const { labels } = given;
  if (!useLabelMask || labels === undefined) return tokens;
  const values = "data" in labels ? [...await labels.data()].map(Number) : labels.flat();
  // Labels of rows, such as classes, mask nothing.
  if (values.length !== tokens.length) return tokens;
  return tokens.map((token, i) => values[i] === labelMaskValue ? 0 : token);
}

/** The rows of tokens that count; all of them where rows are no tokens. */
function chosenRows({ rows, columns, data }: FlatMatrix, mask: Int32Array): FlatMatrix {
  if (mask.length !== rows) return { rows, columns, data };
  const chosen = [...mask.keys()].filter((i) => mask[i] !== 0);
  const out = new Float64Array(chosen.length * columns);
  chosen.forEach((from, to) =>
    out.set(data.subarray(from * columns, (from + 1) * columns), to * columns)
  );
  return flatMatrix(out, { rows: chosen.length, columns });
}

function noBatches(): ValueError {
  return new ValueError(
    "CALIBRATION_BATCHES",
    "EVA needs batches to run the model on. Pass { batches: [{ inputIds: [[…]] }, …] }, or { evaStateDict }.",
  );
}
