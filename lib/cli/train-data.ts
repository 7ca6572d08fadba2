/**
 * The data of `train`: batches to learn from and to evaluate on, and what is measured of them.
 *
 * @module
 */
import { TrainingError } from "../errors.ts";
import { generate } from "../generation/generate.ts";
import { maxPositionsOf } from "../generation/prompt.ts";
import { imageProcessorOf, tokenizerOf } from "../io/model-tokenizer.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import type { ProblemType } from "../model/label-count.ts";
import { type ModelGraph, readsImages } from "../model/model-graph.ts";
import { contrastive } from "../tasks/contrastive.ts";
import type { Objective } from "../tasks/objective.ts";
import type { Pooling } from "../tasks/pooling.ts";
import { randomOrder } from "../tensor/random.ts";
import type { TrainingBatch } from "../training/batch.ts";
import { packExamples, padExamples } from "../training/data.ts";
import type { Measure } from "../training/evaluate.ts";
import { type LabelSet, labelsIn } from "../training/labels.ts";
import { measureAnswers, measureTexts } from "../training/measures.ts";
import { type DataTable, readTable } from "../training/read-table.ts";
import type { TokenizedExample } from "../training/row-rule.ts";
import type { CliContext } from "./context.ts";
import { columnsIn, type ExampleFlags, readExamples } from "./examples.ts";

/** What decides which data there are. */
export interface DataFlags extends ExampleFlags {
  readonly data: string;
  readonly evalData?: string;
  readonly evalSplit?: number;
  readonly adapter?: string;
  readonly labelNames?: readonly string[];
  readonly problemType?: ProblemType;
  readonly pooling?: Pooling;
  readonly numBeams?: number;
  readonly batchSize: number;
  readonly packing?: boolean;
  readonly shuffle: boolean;
  readonly seed: number;
}

/** The data of a run. */
export interface Data {
  /** The batches of a pass over the data, in the order of a seed. */
  epoch(seed: number): (epoch: number) => TrainingBatch[];
  readonly evaluation?: readonly TrainingBatch[];
  readonly metrics?: Measure;
  readonly objective?: Objective;
  readonly examples: number;
  readonly tokens: number;
}

/** Reads the data for a model; notes and, where asked for, examples are written. */
export async function readData(
  base: ModelGraph,
  table: DataTable,
  { flags, context }: { readonly flags: DataFlags; readonly context: CliContext },
): Promise<Data> {
  const { batchSize } = flags;
  const maxLength = Math.min(flags.maxLength, maxPositionsOf(base));
  const images = readsImages(base);
  const tokenizer = images ? undefined : await tokenizerOf(base);
  const processor = images ? await imageProcessorOf(base) : undefined;
  // Padding is never looked at, and not every token that a config names has a row in the model.
  const rows = Number(base.config.vocab_size ?? Infinity);
  const padId = [tokenizer?.padId, tokenizer?.eosId].find((id) => id !== undefined && id < rows) ??
    0;
  const read = await readExamples(base, table, { flags: { ...flags, name: flags.data }, context });
  // Those held back do not depend on how often or in which order the others are learned; all that a
  // row became stays together.
  const whole = [...new Set(read.rows)];
  const order = randomOrder(whole.length, { seed: flags.seed, stream: -1 });
  const held = Math.ceil(whole.length * (flags.evalSplit ?? 0));
  if (held === whole.length) {
    throw new TrainingError(
      "DATASET_EMPTY",
      `--eval-split ${flags.evalSplit} holds back all of ${whole.length} examples; nothing is left to learn.`,
    );
  }
  const heldBack = new Set(order.slice(0, held).map((i) => whole[i]));
  const examples = read.examples.filter((_, i) => !heldBack.has(read.rows[i]));
  const evaluation = flags.evalData === undefined
    ? read.examples.filter((_, i) => heldBack.has(read.rows[i]))
    : (await readExamples(base, await readTable(flags.evalData), {
      flags: { ...flags, name: flags.evalData, showExample: 0 },
      context,
    })).examples;
  // Rows are not rounded up beyond the model's last position.
  const padding = { batchSize, padId, processor, multipleOf: maxPositionsOf(base) % 16 ? 1 : 16 };
  return {
    epoch: (seed) => (epoch) => {
      const order = { epoch, seed: flags.shuffle ? seed : undefined };
      return flags.packing
        ? packExamples(examples, { ...order, batchSize, padId, length: maxLength })
        : padExamples(examples, { ...order, ...padding });
    },
    evaluation: evaluation.length ? padExamples(evaluation, padding) : undefined,
    metrics: measureFor(evaluation, { flags, tokenizer }),
    objective: examples[0].others && contrastive({
      columns: examples[0].others.length + 1,
      pooling: flags.pooling,
    }),
    examples: examples.length,
    tokens: examples.reduce((n, { ids }) => n + ids.length, 0),
  };
}

/** What is measured of answers and of texts that the model writes; of others what is usual. */
function measureFor(
  evaluation: readonly TokenizedExample[],
  { flags, tokenizer }: { readonly flags: DataFlags; readonly tokenizer?: Tokenizer },
): Measure | undefined {
  const [first] = evaluation;
  if (first?.window) return measureAnswers(evaluation);
  if (first?.labelsOf !== "decoder") return undefined;
  const { batchSize, numBeams, maxTargetLength: maxNewTokens } = flags;
  return measureTexts(evaluation, async (sources, model) => {
    const current = await model(), texts: string[] = [];
    for (let i = 0; i < sources.length; i += batchSize) {
      const some = sources.slice(i, i + batchSize);
      const written = await generate(current, some, { numBeams, maxNewTokens, tokenizer });
      texts.push(...written.map(({ text }) => text));
    }
    return texts;
  });
}

/** The classes that a new head gets: those that are given, else those of the data. */
export function labelsFor(
  model: ModelGraph,
  table: DataTable,
  flags: DataFlags,
): Partial<LabelSet> | undefined {
  const { taskType } = model;
  if (taskType !== "SEQ_CLS" && taskType !== "TOKEN_CLS" || flags.adapter) return undefined;
  const given = { labelNames: flags.labelNames, problemType: flags.problemType };
  if (flags.labelNames || model.initialized.length === 0) {
    return flags.labelNames || flags.problemType ? given : undefined;
  }
  const found = labelsIn(table, {
    taskType,
    columns: columnsIn(flags),
    images: readsImages(model),
  });
  return { ...found, problemType: flags.problemType ?? found.problemType };
}
