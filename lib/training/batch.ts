/**
 * Batches as training and evaluation take them.
 *
 * @module
 */
import { checkIds, shiftLabels, toInts, type TokenBatch } from "../adapters/forward.ts";
import type { AnyModel } from "../adapters/peft-model.ts";
import { runInputs } from "../adapters/trace-model.ts";
import { ShapeError } from "../errors.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import type { Program } from "../program/program.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";

/** Rows of equal length. */
export interface TrainingBatch {
  /** Token ids [B, T]. */
  readonly inputIds: TokenBatch;
  /** 1 for tokens, 0 for padding [B, T]; all ones by default. */
  readonly attentionMask?: TokenBatch;
  /** What to predict [B, T], −100 where nothing is; shifted inside. By default the ids themselves, but for padding. */
  readonly labels?: TokenBatch;
  /** Number of the sample that a token of a packed row belongs to, from 1, and 0 for padding [B, T]; stands for the mask. */
  readonly segments?: TokenBatch;
  /** Position of each token [B, T]; 0, 1, 2 … by default, or from 0 in each segment where segments are given. */
  readonly positionIds?: TokenBatch;
}

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
 * @throws {ShapeError} where parts differ in shape; {ValueError} where ids are outside the vocabulary.
 */
export async function prepareBatch(model: AnyModel, given: TrainingBatch): Promise<PreparedBatch> {
  const { data: ids, shape } = await toInts("inputIds", given.inputIds);
  const [batch, length] = shape;
  checkIds(model, ids);
  const same = async (
    name: string,
    part: TokenBatch | undefined,
  ): Promise<Int32Array | undefined> => {
    if (!part) return undefined;
    const { data, shape: other } = await toInts(name, part);
    if (other.join() !== shape.join()) {
      throw new ShapeError(
        "BATCH_SHAPE",
        `${name} has shape [${other}], but inputIds has [${shape}].`,
      );
    }
    return data;
  };
  const segments = await same("segments", given.segments) ??
    await same("attentionMask", given.attentionMask) ?? new Int32Array(ids.length).fill(1);
  const packed = given.segments !== undefined;
  const positions = await same("positionIds", given.positionIds) ??
    countPositions(segments, length, packed);
  let labels = await same("labels", given.labels);
  if (labels) {
    checkIds(model, labels.map((l) => l === IGNORED_LABEL ? 0 : l));
  } else {
    labels = ids.map((id, i) => segments[i] === 0 ? IGNORED_LABEL : id);
  }
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
  });
  inputs.labels = tensor(batch.labels, { shape: [batch.batch, batch.length] });
  inputs.lossScale = tensor(Float32Array.of(options.lossScale));
  return inputs;
}
