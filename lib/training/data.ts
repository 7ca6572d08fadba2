/**
 * From tokenized examples to batches: rows that are padded or packed.
 *
 * @module
 */
import { TrainingError, ValueError } from "../errors.ts";
import { type ImageProcessor, processImages } from "../io/image-processor.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { checkOptions, type OptionRules, WHOLE, wholeFrom } from "../options.ts";
import { weakly } from "../tensor/computed.ts";
import { randomOrder } from "../tensor/random.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { TrainingBatch } from "./batch.ts";
import type { TokenizedExample } from "./row-rule.ts";

/** How tokenized examples become batches. */
export interface BatchOptions {
  /** Rows in a batch; the last batch may have fewer. */
  readonly batchSize: number;
  /** Shuffles examples with this seed; they keep their order without it. */
  readonly seed?: number;
  /** Which pass over the data, from 0; each has an order of its own. */
  readonly epoch?: number;
}

const BATCH_RULES: OptionRules<BatchOptions> = {
  batchSize: null, // checked where rows are dealt out
  seed: WHOLE,
  epoch: wholeFrom(0),
};

/**
 * One example in each row, padded on the right to the length of the longest in the batch, rounded
 * up so that few programs are compiled.
 *
 * @param examples From {@link tokenizeExamples}.
 * @param options `multipleOf` is what lengths are rounded up to (16 by default), `padId` what
 * padding holds (0 by default), `processor` what makes images ready, which are read when their batch
 * runs.
 * @throws {ValueError} `DATA_OPTION` for images without a processor that makes them of one size.
 *
 * @example
 * ```ts
 * import { padExamples } from "@graft/peft";
 * const examples = [{ ids: [1, 2], labels: [-100, 2] }];
 * console.log(padExamples(examples, { batchSize: 1, multipleOf: 4 })[0].labels);
 * // [[-100, 2, -100, -100]]
 * ```
 */
export function padExamples(
  examples: readonly TokenizedExample[],
  options: BatchOptions & {
    readonly multipleOf?: number;
    readonly padId?: number;
    readonly processor?: ImageProcessor;
  },
): TrainingBatch[] {
  const rules = { ...BATCH_RULES, multipleOf: wholeFrom(1), padId: wholeFrom(0), processor: null };
  checkOptions(options, rules, { code: "DATA_OPTION", of: "padExamples" });
  const { multipleOf = 16, padId = 0 } = options;
  const batches = batched(shuffled(examples, options), options.batchSize);
  // What belongs together is told from others, of which a pair alone has none.
  const [last] = batches.slice(-1);
  if (batches.length > 1 && last.length === 1 && last[0].others?.length === 1) {
    batches.splice(-2, 2, batches.slice(-2).flat());
  }
  return batches.map((some) => {
    // Texts that belong together: all anchors, then all positives, then the negatives.
    const others = (some[0].others ?? []).flatMap((_, at) =>
      some.map(({ others, ...anchor }) => ({ ...anchor, ...others![at] }))
    );
    const rows: readonly TokenizedExample[] = [...some, ...others];
    const labels = rows.map((row) => row.labels);
    if (rows[0].image) {
      return {
        pixelValues: pixelsOf(rows.map((row) => row.image!), options.processor),
        ...LABELS[rows[0].labelsOf ?? "row"](labels, { length: 1, multipleOf }),
      };
    }
    const longest = Math.max(...rows.map((row) => row.ids.length));
    const length = Math.ceil(longest / multipleOf) * multipleOf;
    const filled = (row: readonly number[], value: number) => filledTo(length, row, value);
    const types = rows.every((row) => row.tokenTypeIds) && {
      tokenTypeIds: rows.map((row) => filled(row.tokenTypeIds!, 0)),
    };
    return {
      inputIds: rows.map((row) => filled(row.ids, padId)),
      ...types,
      attentionMask: rows.map((row) => filled(row.ids.map(() => 1), 0)),
      ...LABELS[rows[0].labelsOf ?? "tokens"](labels, { length, multipleOf }),
    };
  });
}

/** Images [B, 3, H, W], made when they are needed, and forgotten. */
function pixelsOf(images: readonly (string | Uint8Array)[], processor?: ImageProcessor): Tensor {
  const size = processor?.cropSize ?? processor?.size;
  if (!size || !("width" in size)) {
    throw new ValueError(
      "DATA_OPTION",
      "Images need a processor that gives them one size, of both sides; see loadImageProcessor.",
    );
  }
  return {
    dtype: "f32",
    shape: [images.length, 3, size.height, size.width],
    where: "host",
    data: weakly(async () =>
      await (await processImages(images, processor!)).data() as Float32Array
    ),
  };
}

/** The parts of a batch that labels become, by what they are of. */
const LABELS: Readonly<
  Record<
    NonNullable<TokenizedExample["labelsOf"]>,
    (
      rows: readonly (readonly number[])[],
      sizes: { readonly length: number; readonly multipleOf: number },
    ) => Partial<TrainingBatch>
  >
> = {
  tokens: (rows, { length }) => ({
    labels: rows.map((row) => filledTo(length, row, IGNORED_LABEL)),
  }),
  none: () => ({}),
  row: (rows) => ({ labels: rows[0].length === 1 ? rows.flat() : rows }),
  decoder(rows, { multipleOf }) {
    const longest = Math.max(...rows.map((row) => row.length));
    const length = Math.ceil(longest / multipleOf) * multipleOf;
    return { labels: rows.map((row) => filledTo(length, row, IGNORED_LABEL)) };
  },
  span: (rows) => ({
    startPositions: rows.map(([start]) => start),
    endPositions: rows.map(([, end]) => end),
  }),
};

function filledTo(length: number, row: readonly number[], value: number): number[] {
  return [...row, ...new Array<number>(length - row.length).fill(value)];
}

/**
 * Several examples in each row of `length` tokens, one after the other. `segments` numbers them
 * from 1 (padding is 0), so that they do not see each other, and positions begin at 0 in each.
 * Examples stay whole; each goes into the first row that has room.
 *
 * @param examples From {@link tokenizeExamples}.
 * @param options `length` of a row; `padId` is what padding holds (0 by default).
 * @throws {ValueError} `DATA_LENGTH` for an example that is longer than a row.
 *
 * @example
 * ```ts
 * import { packExamples } from "@graft/peft";
 * const examples = [{ ids: [1, 2], labels: [1, 2] }, { ids: [3, 4], labels: [3, 4] }];
 * console.log(packExamples(examples, { batchSize: 1, length: 5 })[0].segments);
 * // [[1, 1, 2, 2, 0]]
 * ```
 */
export function packExamples(
  examples: readonly TokenizedExample[],
  options: BatchOptions & { readonly length: number; readonly padId?: number },
): TrainingBatch[] {
  checkOptions(options, { ...BATCH_RULES, length: wholeFrom(2), padId: wholeFrom(0) }, {
    code: "DATA_OPTION",
    of: "packExamples",
  });
  const { length, padId = 0 } = options;
  const rows: { ids: number[]; labels: number[]; segments: number[]; positions: number[] }[] = [];
  // The first row with so much room is looked for among those that are not full.
  let open = 0;
  for (const { ids, labels, labelsOf = "tokens" } of shuffled(examples, options)) {
    const count = ids.length;
    if (labelsOf !== "tokens") {
      throw new ValueError(
        "DATA_OPTION",
        "Only examples whose labels are of tokens can be packed, and these are not. Pad them.",
      );
    }
    if (count > length) {
      throw new ValueError(
        "DATA_LENGTH",
        `An example of ${count} tokens does not fit into rows of ${length}. Tokenize with maxLength ${length}, or pack longer rows.`,
        { count, length },
      );
    }
    let at = open;
    while (at < rows.length && rows[at].ids.length + count > length) at++;
    const row = rows[at] ??= { ids: [], labels: [], segments: [], positions: [] };
    const segment = (row.segments[row.segments.length - 1] ?? 0) + 1;
    for (let i = 0; i < count; i++) {
      row.ids.push(ids[i]);
      row.labels.push(i === 0 ? IGNORED_LABEL : labels[i]);
      row.segments.push(segment);
      row.positions.push(i);
    }
    while (open < rows.length && rows[open].ids.length > length - 2) open++;
  }
  for (const row of rows) {
    while (row.ids.length < length) {
      row.ids.push(padId);
      row.labels.push(IGNORED_LABEL);
      row.segments.push(0);
      row.positions.push(0);
    }
  }
  return batched(rows, options.batchSize).map((some) => ({
    inputIds: some.map((row) => row.ids),
    labels: some.map((row) => row.labels),
    segments: some.map((row) => row.segments),
    positionIds: some.map((row) => row.positions),
  }));
}

function shuffled(
  examples: readonly TokenizedExample[],
  options: BatchOptions,
): readonly TokenizedExample[] {
  if (examples.length === 0) {
    throw new TrainingError(
      "DATASET_EMPTY",
      "There is nothing to train on: the data set holds no example.",
    );
  }
  const { seed, epoch = 0 } = options;
  if (seed === undefined) return examples;
  return randomOrder(examples.length, { seed, stream: epoch }).map((i) => examples[i]);
}

function batched<T>(rows: readonly T[], size: number): T[][] {
  if (!Number.isInteger(size) || size < 1) {
    throw new ValueError("BATCH_SIZE", `batchSize must be a whole number above 0, not ${size}.`);
  }
  const batches: T[][] = [];
  for (let i = 0; i < rows.length; i += size) batches.push(rows.slice(i, i + size));
  return batches;
}
