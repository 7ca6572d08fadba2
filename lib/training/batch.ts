/**
 * Batches as training and evaluation take them.
 *
 * @module
 */
import { shiftLabels } from "../adapters/forward.ts";
import { type AnyModel, virtualTokens } from "../adapters/peft-model.ts";
import {
  checkIds,
  checkPositions,
  partOf,
  toInts,
  type TokenBatch,
} from "../adapters/token-batch.ts";
import { runInputs } from "../adapters/trace-model.ts";
import { UnsupportedError } from "../errors.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { checkOptions, type OptionRules } from "../options.ts";
import type { Program } from "../program/program.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";

/** Rows of equal length. */
export interface TrainingBatch {
  /** Token ids [B, T]. */
  readonly inputIds: TokenBatch;
  /** 1 for tokens, 0 for padding [B, T]; all ones by default. */
  readonly attentionMask?: TokenBatch;
  /**
   * What to predict [B, T], −100 where nothing is; shifted inside. By default the ids themselves,
   * but for padding.
   */
  readonly labels?: TokenBatch;
  /**
   * Number of the sample that a token of a packed row belongs to, from 1, and 0 for padding [B, T];
   * stands for the mask.
   */
  readonly segments?: TokenBatch;
  /**
   * Position of each token [B, T]; 0, 1, 2 … by default, or from 0 in each segment where segments
   * are given.
   */
  readonly positionIds?: TokenBatch;
}

const PARTS: OptionRules<TrainingBatch> = {
  inputIds: null,
  attentionMask: null,
  labels: null,
  segments: null,
  positionIds: null,
};

/** A batch in row-major integers, checked. */
export interface PreparedBatch {
  /** B. */
  readonly batch: number;
  /** T. */
  readonly length: number;
  /** Token ids. */
  readonly ids: Int32Array;
  /** Positions. */
  readonly positions: Int32Array;
  /** Segments: which tokens see each other. */
  readonly segments: Int32Array;
  /** Whether rows hold several samples, so that queries have segments too. */
  readonly packed: boolean;
  /** Shifted labels. */
  readonly labels: Int32Array;
  /** Number of labels that count. */
  readonly targets: number;
  /** Number of tokens that are not padding. */
  readonly tokens: number;
}

/**
 * Checks a batch and fills in what it leaves out.
 *
 * @throws {ShapeError} where parts differ in shape.
 * @throws {ValueError} where ids, labels, segments or positions are out of range, and for parts
 * that a batch does not have.
 * @throws {UnsupportedError} for segments where an adapter puts virtual tokens before each row.
 */
export async function prepareBatch(model: AnyModel, given: TrainingBatch): Promise<PreparedBatch> {
  checkOptions(given, PARTS, { code: "BATCH_PART", of: "A batch" });
  const { data: ids, shape } = await toInts("inputIds", given.inputIds);
  const [batch, length] = shape;
  checkIds(model, ids);
  const segments = await partOf("segments", given.segments, { shape, from: 0 }) ??
    await partOf("attentionMask", given.attentionMask, { shape, from: 0, to: 1 }) ??
    new Int32Array(ids.length).fill(1);
  const packed = given.segments !== undefined;
  const virtual = virtualTokens(model);
  if (packed && virtual) {
    throw new UnsupportedError(
      "PACKED_PREFIX",
      `A batch with segments packs several samples into a row, and the active adapter puts ${virtual} ` +
        "virtual tokens before each row, which only its first sample would see. Train without packing.",
    );
  }
  const own = await partOf("positionIds", given.positionIds, { shape, from: 0 }) ??
    countPositions(segments, length, packed);
  const positions = own.map((position) => position + virtual);
  checkPositions(model, positions);
  const labels = await partOf("labels", given.labels, { shape, from: IGNORED_LABEL }) ??
    ids.map((id, i) => segments[i] === 0 ? IGNORED_LABEL : id);
  checkIds(model, labels, { labels: true });
  const shifted = shiftLabels(labels, length);
  if (packed) {
    // The last token of a sample does not predict the first of the next.
    for (let i = 0; i + 1 < shifted.length; i++) {
      if (segments[i] !== segments[i + 1]) shifted[i] = IGNORED_LABEL;
    }
  }
  return {
    batch,
    length,
    ids,
    positions,
    segments,
    packed,
    labels: shifted,
    targets: shifted.reduce((n, l) => n + (l === IGNORED_LABEL ? 0 : 1), 0),
    tokens: segments.reduce((n, s) => n + (s === 0 ? 0 : 1), 0),
  };
}

function countPositions(segments: Int32Array, length: number, packed: boolean): Int32Array {
  const positions = new Int32Array(segments.length);
  for (let i = 0; i < positions.length; i++) {
    const starts = i % length === 0 || (packed && segments[i] !== segments[i - 1]);
    positions[i] = starts ? 0 : positions[i - 1] + 1;
  }
  return positions;
}

/** The data inputs of a training or evaluation program for a batch. */
export function batchInputs(
  model: AnyModel,
  batch: PreparedBatch,
  options: { readonly program: Program; readonly lossScale: number; readonly seed?: number },
): Record<string, Tensor> {
  const inputs = runInputs(model, {
    ...options,
    ...batch,
    keySegments: batch.segments,
    querySegments: batch.packed ? batch.segments : undefined,
    sequenceLength: batch.length + virtualTokens(model),
  });
  inputs.labels = tensor(batch.labels, { shape: [batch.batch, batch.length] });
  inputs.lossScale = tensor(Float32Array.of(options.lossScale));
  return inputs;
}
