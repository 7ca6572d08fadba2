/**
 * `classify`, `tag`, `answer` and `embed`: what models without text of their own say about texts.
 *
 * @module
 */
import { type Command, Option } from "commander";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { ValueError } from "../errors.ts";
import { answer, type Question } from "../inference/answer.ts";
import { classify } from "../inference/classify.ts";
import { embed } from "../inference/embed.ts";
import { tag, type TagOptions } from "../inference/tag.ts";
import type { TextRow } from "../io/encode-inputs.ts";
import { parseJsonObject, readTextFile } from "../io/json.ts";
import type { TaskType } from "../model/task-type.ts";
import { FINITE, wholeFrom } from "../options.ts";
import { POOLINGS } from "../tasks/pooling.ts";
import { type CommandContext, interruptible } from "./context.ts";
import {
  addModelOptions,
  commaList,
  type ModelFlags,
  numeric,
  withAdapters,
  withModel,
} from "./options.ts";

interface InferFlags extends ModelFlags {
  readonly text?: readonly string[];
  readonly image?: readonly string[];
  readonly input?: string;
  readonly adapter?: readonly string[];
  readonly labels?: readonly string[];
  readonly question?: string;
  readonly json?: boolean;
}

/** A verb as a command. */
interface Verb {
  readonly name: string;
  readonly task: TaskType;
  readonly summary: string;
  readonly options: readonly Option[];
  readonly example: string;
  /** A row from a text of the command line or a line of a file. */
  row(text: string, flags: InferFlags): unknown;
  run(model: AnyModel, rows: readonly never[], options: object): Promise<readonly unknown[]>;
  /** The lines of one result. */
  show(result: never, row: never): readonly (string | number)[][];
}

const plain = (text: string) => text;
const positive = numeric(wholeFrom(1));
const score = (x: number) => x.toFixed(4);

const VERBS: readonly Verb[] = [
  {
    name: "classify",
    task: "SEQ_CLS",
    summary: "say what texts are about, or what is in images",
    options: [
      new Option("--image <path...>", "images, for a model of images"),
      new Option("--top-k <n>", "labels of each text (default: 1)").argParser(positive).default(1),
      new Option("--threshold <x>", "leave out labels with a lower score")
        .argParser(numeric(FINITE)),
    ],
    example: 'classify ./bert --adapter ./out --labels mail,spam --text "Buy now!"',
    row: plain,
    run: (model, rows: readonly TextRow[], options) => classify(model, rows, options),
    show: (labels: readonly { readonly label: string; readonly score: number }[]) =>
      labels.map((one) => [one.label, score(one.score)]),
  },
  {
    name: "tag",
    task: "TOKEN_CLS",
    summary: "find entities in texts",
    options: [
      new Option("--aggregation <how>", "what becomes of tokens (default: simple)")
        .choices(["none", "simple", "first", "average", "max"]).default("simple"),
      new Option("--stride <n>", "read longer texts in windows that share so many tokens")
        .argParser(numeric(wholeFrom(0))),
    ],
    example: 'tag ./bert-ner --text "Ada Lovelace lived in London."',
    row: plain,
    run: (model, rows: readonly TextRow[], options: TagOptions) => tag(model, rows, options),
    show: (
      entities: readonly {
        readonly entity: string;
        readonly score: number;
        readonly word: string;
      }[],
    ) => entities.map((one) => [one.entity, score(one.score), one.word]),
  },
  {
    name: "answer",
    task: "QUESTION_ANS",
    summary: "answer questions by parts of a text",
    options: [
      new Option("--question <text>", "what is asked; the texts are where the answer is"),
      new Option("--top-k <n>", "answers to each question (default: 1)").argParser(positive)
        .default(1),
      new Option("--handle-impossible-answer", "say so where there is no answer"),
    ],
    example: 'answer ./bert-squad --question "Where?" --text "She lived in London."',
    row(context, { question }) {
      if (question !== undefined) return { question, context };
      throw new ValueError("QUESTION", "answer needs --question, or rows of JSON that hold both.");
    },
    run: (model, rows: readonly Question[], options) => answer(model, rows, options),
    show: (answers: readonly { readonly answer: string; readonly score: number }[]) =>
      answers.map((one) => [score(one.score), one.answer]),
  },
  {
    name: "embed",
    task: "FEATURE_EXTRACTION",
    summary: "turn texts into vectors",
    options: [
      new Option("--pooling <how>", "what stands for a text (default: as the folder says, or mean)")
        .choices([...POOLINGS]),
      new Option("--normalize", "give vectors length 1"),
      new Option("--prompt <text>", "what each text begins with"),
    ],
    example: 'embed ./all-MiniLM-L6-v2 --text "a boat" "a ship"',
    row: plain,
    run: (model, rows: readonly string[], options) => embed(model, rows, options),
    show: (vector: Float32Array) => [[...vector]],
  },
];

/** Adds the commands. */
export function addInferCommands(program: Command, context: CommandContext): void {
  for (const verb of VERBS) {
    const command = program.command(verb.name)
      .summary(verb.summary)
      .description(
        `Reads texts with a model for ${verb.task} (${verb.summary}). Texts come from --text, from the lines of --input, or from ` +
          "those of the standard input. A result is a line of columns with tabs between.",
      )
      .option("--text <text...>", "texts")
      .option("--input <file>", "a text in each line; in a .jsonl file what the function takes")
      .option("--adapter <folder...>", "adapter to apply: a folder, or an id on the hub");
    for (const option of verb.options) command.addOption(option);
    if (verb.task === "SEQ_CLS" || verb.task === "TOKEN_CLS") {
      command.option(
        "--labels <names>",
        "names of the classes (default: those of the adapter or the base)",
        commaList,
      );
    }
    command
      .option("--max-length <n>", "the longest row in tokens", positive)
      .option("--batch-size <n>", "texts that run at once (default: 32)", positive)
      .option("--json", "print a JSON line for each text");
    addModelOptions(command).addHelpText("after", `\nExamples:\n  ${verb.example}`)
      .action(async (source: string, flags: InferFlags) => {
        context.finish(
          await interruptible(context, async (signal) => {
            const rows = await rowsOf(verb, flags, context, command);
            const load = { taskType: verb.task, labelNames: flags.labels };
            const adapter = flags.adapter?.[0];
            return await withModel(source, { flags, context, load, adapter }, async (base) => {
              const model = await withAdapters(base, flags.adapter ?? [], context);
              if (baseOf(model).initialized.length && model.type === "model") {
                context.err(
                  `${source} has no ${base.initialized.join(", ")}: it is new and random.\n`,
                );
              }
              const options = { signal, ...optionsOf(verb, flags) };
              const results = await verb.run(model, rows as never, options);
              results.forEach((result, i) =>
                context.out(
                  flags.json
                    ? JSON.stringify(result instanceof Float32Array ? [...result] : result) + "\n"
                    : verb.show(result as never, rows[i] as never)
                      .map((line) => line.join("\t") + "\n").join(""),
                )
              );
              return 0;
            });
          }),
        );
      });
  }
}

/** The options of a verb's function that were given. */
function optionsOf({ options }: Verb, flags: InferFlags): object {
  const names = new Set([
    ...options.map((option) => option.attributeName()),
    "maxLength",
    "batchSize",
  ]);
  names.delete("question");
  names.delete("image");
  return Object.fromEntries(Object.entries(flags).filter(([name]) => names.has(name)));
}

async function rowsOf(
  verb: Verb,
  flags: InferFlags,
  context: CommandContext,
  command: Command,
): Promise<readonly unknown[]> {
  const { text = flags.image, input } = flags;
  if (text) return text.map((one) => verb.row(one, flags));
  if (input === undefined && !context.piped) {
    command.error("error: no text was given: use --text or --input, or pipe lines in");
  }
  const all = input === undefined ? await context.input() : await readTextFile(input);
  const lines = all.split(/\r?\n/).filter((line) => line.trim() !== "");
  return lines.map((line, i) =>
    input?.endsWith(".jsonl")
      ? parseJsonObject(line, `${input}, line ${i + 1}`)
      : verb.row(line, flags)
  );
}
