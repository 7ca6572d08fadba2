/**
 * Texts through a model without writing any: what `classify`, `tag`, `answer` and `embed` share.
 *
 * @module
 */
import { batchInputs, batchKey, modelInputs, prepareBatch, traceShape } from "../adapters/batch.ts";
import { compileModel } from "../adapters/forward.ts";
import { type AnyModel, baseOf, virtualTokens } from "../adapters/peft-model.ts";
import { traceModel } from "../adapters/trace-model.ts";
import { UnsupportedError, ValueError } from "../errors.ts";
import { type EncodedRow, padRows } from "../io/encode-inputs.ts";
import { tokenizerOf } from "../io/model-tokenizer.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import { positionLimit, writtenSequence } from "../model/model-graph.ts";
import { tasksOf } from "../model/task-of.ts";
import type { TaskType } from "../model/task-type.ts";
import type { ForwardPass } from "../model/forward-pass.ts";
import { checkOptions, NAMES, type OptionRules, SIGNAL, wholeFrom } from "../options.ts";
import { taskFor } from "../tasks/mod.ts";
import type { Values } from "../tasks/objective.ts";
import { toFloat32 } from "../tensor/convert.ts";

/** What all verbs that read texts take. */
export interface InferenceOptions {
  /** Reads texts; the one that lies beside the model's weights by default. */
  readonly tokenizer?: Tokenizer;
  /** Rows that run at once, 32 by default; rows of about one length run together. */
  readonly batchSize?: number;
  /** The longest row in tokens, special ones included. */
  readonly maxLength?: number;
  /**
   * The adapter of each text, active or not, `"__base__"` for none; without it all get the active
   * adapters.
   */
  readonly adapterNames?: readonly string[];
  /** Number of each text's task, where an active adapter routes by it. */
  readonly taskIds?: readonly number[];
  /** Stops between two batches with the signal's reason as the error. */
  readonly signal?: AbortSignal;
}

const RULES: OptionRules<InferenceOptions> = {
  tokenizer: null,
  batchSize: wholeFrom(1),
  maxLength: wholeFrom(1),
  adapterNames: NAMES,
  taskIds: null,
  signal: SIGNAL,
};

/** A verb with all that it needs. */
export interface Reader extends InferenceOptions {
  /** Its name. */
  readonly of: string;
  /** The model. */
  readonly model: AnyModel;
  /** The tokenizer. */
  readonly tokenizer: Tokenizer;
  /** The most tokens that a row can have. */
  readonly limit: number;
}

/**
 * Checks what a verb was given.
 *
 * @throws {UnsupportedError} `TASK_MODEL` for a model of another task.
 * @throws {ValueError} `INFERENCE_OPTION`.
 */
export async function openReader<O extends InferenceOptions>(
  model: AnyModel,
  options: O,
  verb: VerbRule<O>,
): Promise<Reader & O> {
  checkVerb(model, options, verb);
  const base = baseOf(model), tokenizer = options.tokenizer ?? await tokenizerOf(base);
  const { model_max_length: stated } = tokenizer.files.config;
  const limit = Math.min(
    positionLimit(base) - virtualTokens(model),
    typeof stated === "number" && stated > 0 ? stated : Infinity,
  );
  return { ...options, of: verb.of, model, tokenizer, limit };
}

/** A verb: its name, the task of its models, and options of its own. */
interface VerbRule<O extends InferenceOptions> {
  readonly of: string;
  readonly task: TaskType;
  readonly rules: OptionRules<Omit<O, keyof InferenceOptions>>;
}

/** The same for a verb that needs no tokenizer. */
export function checkVerb<O extends InferenceOptions>(
  model: AnyModel,
  options: O,
  { of, task, rules }: VerbRule<O>,
): void {
  const base = baseOf(model), { architecture, taskType } = base;
  checkOptions(options, { ...RULES, ...rules } as OptionRules<O>, { code: "INFERENCE_OPTION", of });
  if (taskType !== task) {
    const tasks = tasksOf(architecture);
    throw new UnsupportedError(
      "TASK_MODEL",
      `${of} needs a model for ${task}, and this ${architecture.name} model is one for ${taskType}. ${
        tasks.includes(task)
          ? `Load it with { taskType: "${task}" }.`
          : `That family has models for ${tasks.join(", ")}.`
      }`,
      { taskType, needed: task },
    );
  }
}

/** One output of one row, flat. */
export type RowOutputs = Readonly<Record<string, Float32Array>>;

/**
 * Runs rows, those of about one length together, and gives what is asked of each in their order.
 *
 * @param of The verb. Its `adapterNames` and `taskIds` are those of the texts that rows are of.
 * @param ask What is traced, by a key that tells programs apart; whether outputs have a row for each
 * token [B, T, ...], of which those of padding and of virtual tokens are then left out.
 */
export async function runRows(
  of: Reader,
  rows: readonly EncodedRow[],
  ask: {
    readonly key: string;
    readonly perToken: boolean;
    readonly outputs: (pass: ForwardPass, values: Values) => Values;
  },
): Promise<RowOutputs[]> {
  const { model, tokenizer, limit, batchSize = 32, adapterNames, taskIds } = of;
  const base = baseOf(model), found = new Array<RowOutputs>(rows.length);
  for (const { row, inputIds } of rows) checkLength(inputIds.length, row, of);
  const pad = base.config.pad_token_id ?? tokenizer.padId ?? 0;
  const { model_input_names: names } = tokenizer.files.config;
  const typed = modelInputs(base).some(({ name }) => name === "tokenTypeIds") &&
    (!Array.isArray(names) || names.includes("token_type_ids"));
  const order = [...rows.keys()].sort((a, b) => rows[b].inputIds.length - rows[a].inputIds.length);
  for (let at = 0; at < order.length; at += batchSize) {
    of.signal?.throwIfAborted();
    const batch = order.slice(at, at + batchSize);
    const { tokenTypeIds, ...padded } = padRows(batch.map((i) => rows[i]), {
      padId: Number(pad),
      multipleOf: 16,
      most: limit,
    });
    const prepared = await prepareBatch(model, {
      ...padded,
      ...(typed && { tokenTypeIds }),
      // Where a decoder reads nothing again, what the encoder gives does not depend on it.
      ...(writtenSequence(base) === "decoderTokens" && !taskFor(base).decoderReads &&
        { decoderInputIds: batch.map(() => [0]) }),
      ...(adapterNames && { adapterNames: batch.map((i) => adapterNames[rows[i].row]) }),
      ...(taskIds && { taskIds: batch.map((i) => taskIds[rows[i].row]) }),
    }, { mixes: true, code: "INFERENCE_OPTION", of: of.of });
    const { traced, executable } = await compileModel(
      model,
      `${of.of} ${ask.key} ${batchKey(prepared)}`,
      () => traceModel(model, { ...traceShape(prepared), outputs: ask.outputs }),
    );
    const outputs = await executable.run({
      ...traced.bindings,
      ...batchInputs(model, prepared, { program: executable.program }),
    });
    const own = batch.map((): Record<string, Float32Array> => ({}));
    for (const [name, output] of Object.entries(outputs)) {
      const data = await toFloat32(output), width = data.length / batch.length;
      const token = width / output.shape[1];
      const skip = ask.perToken ? (output.shape[1] - prepared.length) * token : 0;
      batch.forEach((i, b) => {
        const size = ask.perToken ? rows[i].inputIds.length * token : width;
        const part = data.slice(b * width + skip, b * width + skip + size);
        if (!part.every(Number.isFinite)) throw notFinite(rows[i].row, of);
        own[b][name] = part;
      });
    }
    batch.forEach((i, b) => found[i] = own[b]);
  }
  return found;
}

/** Rows with their outputs by the number of the text that they are of. */
export function byText(
  rows: readonly EncodedRow[],
  outputs: readonly RowOutputs[],
): ReadonlyMap<number, readonly (readonly [row: EncodedRow, outputs: RowOutputs])[]> {
  return Map.groupBy(rows.map((row, i) => [row, outputs[i]] as const), ([{ row }]) => row);
}

function notFinite(row: number, { of }: Reader): ValueError {
  return new ValueError(
    "LOGITS_NOT_FINITE",
    `What the model gives for text ${row} of ${of} is not finite. Its weights, or an adapter's, are damaged or have diverged.`,
    { row },
  );
}

function checkLength(length: number, row: number, { of, limit }: Reader): void {
  if (length === 0) {
    throw new ValueError("TEXT_EMPTY", `Text ${row} has no tokens for ${of}.`, { row });
  }
  if (length <= limit) return;
  throw new ValueError(
    "TEXT_LENGTH",
    `Text ${row} has ${length} tokens for ${of}, and the model takes ${limit}. Give maxLength: ${limit} to cut it.`,
    { row, length, limit },
  );
}

/**
 * The texts that a verb was given, one or several.
 *
 * @throws {ValueError} `ADAPTER_ROWS` for another number of adapters, and `INFERENCE_OPTION` of tasks.
 */
export function listOf<T>(of: InferenceOptions, given: T | readonly T[]): readonly T[] {
  const texts = [given].flat() as readonly T[];
  for (
    const [name, code] of [["adapterNames", "ADAPTER_ROWS"], [
      "taskIds",
      "INFERENCE_OPTION",
    ]] as const
  ) {
    const found = of[name]?.length ?? texts.length;
    if (found === texts.length) continue;
    throw new ValueError(
      code,
      `${name} needs one for each of the ${texts.length} texts; found ${found}.`,
    );
  }
  return texts;
}

/** One result for one text, or a list for a list. */
export function likeGiven<T>(given: unknown, results: readonly T[]): T | readonly T[] {
  return Array.isArray(given) ? results : results[0];
}
