/**
 * `generate`: text from a model, as it comes.
 *
 * @module
 */
import type { Command } from "commander";
import type { AnyModel } from "../adapters/peft-model.ts";
import { generate, generateStream } from "../generation/generate.ts";
import type { GenerateOptions } from "../generation/generate-options.ts";
import type { Prompt } from "../generation/prompt.ts";
import { FINITE, NOT_NEGATIVE, numberIn, POSITIVE, wholeFrom } from "../options.ts";
import { type CommandContext, INTERRUPTED, interruptible } from "./context.ts";
import { addModelOptions, type ModelFlags, numeric, withAdapters, withModel } from "./options.ts";

/** What {@link addSamplingOptions} adds. */
export interface SamplingFlags {
  readonly maxNewTokens: number;
  readonly doSample?: boolean;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly repetitionPenalty?: number;
  readonly noRepeatNgramSize?: number;
  readonly seed: number;
  readonly stop?: readonly string[];
  readonly includeStop?: boolean;
}

interface GenerateFlags extends ModelFlags, SamplingFlags {
  readonly prompt?: readonly string[];
  readonly adapter?: readonly string[];
  readonly chat?: boolean;
  readonly system?: string;
  readonly numBeams?: number;
  readonly lengthPenalty?: number;
  readonly earlyStopping?: boolean;
  readonly numReturnSequences?: number;
  readonly json?: boolean;
}

/** Options that say how tokens are chosen, and when a text ends. */
export function addSamplingOptions(
  command: Command,
  defaults: { readonly maxNewTokens: number },
): Command {
  return command
    .option(
      "--max-new-tokens <n>",
      "tokens to add at most",
      numeric(wholeFrom(1)),
      defaults.maxNewTokens,
    )
    .option("--do-sample", "draw tokens at random")
    .option(
      "--temperature <x>",
      "flattens (above 1) or sharpens the distribution; 0 is the most probable token",
      numeric(NOT_NEGATIVE),
    )
    .option("--top-k <n>", "draw from the k most probable tokens", numeric(wholeFrom(0)))
    .option(
      "--top-p <p>",
      "draw from the most probable tokens that make up this much",
      numeric(numberIn(0, 1)),
    )
    .option(
      "--repetition-penalty <x>",
      "above 1 makes tokens less likely that have occurred",
      numeric(POSITIVE),
    )
    .option(
      "--no-repeat-ngram-size <n>",
      "allow no run of so many tokens twice",
      numeric(wholeFrom(0)),
    )
    .option("--seed <n>", "the same seed gives the same text", numeric(wholeFrom(0)), 0)
    .option("--stop <text...>", "strings that end a text")
    .option("--include-stop", "keep the stop string");
}

/** What the flags mean to `generate`. */
export function samplingOf(flags: SamplingFlags): GenerateOptions {
  return {
    maxNewTokens: flags.maxNewTokens,
    doSample: flags.doSample,
    temperature: flags.temperature,
    topK: flags.topK,
    topP: flags.topP,
    repetitionPenalty: flags.repetitionPenalty,
    noRepeatNgramSize: flags.noRepeatNgramSize,
    seed: flags.seed,
    stop: flags.stop,
    includeStop: flags.includeStop,
  };
}

/** Adds the command. */
export function addGenerateCommand(program: Command, context: CommandContext): void {
  const command = program.command("generate")
    .summary("generate text")
    .description(
      "Generates text from one prompt or several, as it comes. Without any option of sampling, the most probable " +
        "token is taken each time. The prompt is read from the standard input where none is given.",
    )
    .option("--prompt <text...>", "text to go on from; several make a batch")
    .option(
      "--adapter <folder...>",
      "adapter to apply: a folder, or an id on the hub; several are applied together",
    )
    .option("--chat", "put prompts into the model's chat template as a user's message")
    .option("--system <text>", "system message of the chat");
  addSamplingOptions(command, { maxNewTokens: 128 })
    .option(
      "--num-beams <n>",
      "follow so many texts and take the most probable as a whole",
      numeric(wholeFrom(1)),
    )
    .option("--length-penalty <x>", "above 0 beams prefer long texts", numeric(FINITE))
    .option("--early-stopping", "end with as many texts as there are beams")
    .option("--num-return-sequences <n>", "texts that beams give", numeric(wholeFrom(1)))
    .option("--json", "print a JSON line for each prompt");
  addModelOptions(command).addHelpText(
    "after",
    `
Examples:
  generate SmolLM2-135M-Instruct.Q4_1.gguf --chat --prompt "What is a sloop?"
  generate ./llama --adapter ./out --prompt "Call me" --temperature 0.8 \\
    --top-p 0.95 --seed 7
  echo "Once upon a time" | generate ./llama --max-new-tokens 50`,
  ).action(async (source: string, flags: GenerateFlags) => {
    context.finish(
      await interruptible(context, async (signal) => {
        const prompts = await promptsOf(flags, context, command);
        return await withModel(source, { flags, context }, async (base) => {
          const model = await withAdapters(base, flags.adapter ?? [], context);
          return await run(model, prompts, { flags, context, signal });
        });
      }),
    );
  });
}

async function promptsOf(
  flags: GenerateFlags,
  context: CommandContext,
  command: Command,
): Promise<Prompt[]> {
  if (!flags.prompt && !context.piped) {
    command.error("error: no prompt was given: use --prompt, or pipe one in");
  }
  const texts = flags.prompt ?? [(await context.input()).replace(/\r?\n$/, "")];
  if (!flags.chat && flags.system === undefined) return [...texts];
  return texts.map((content) => [
    ...(flags.system === undefined ? [] : [{ role: "system", content: flags.system }]),
    { role: "user", content },
  ]);
}

async function run(
  model: AnyModel,
  prompts: readonly Prompt[],
  { flags, context, signal }: {
    readonly flags: GenerateFlags;
    readonly context: CommandContext;
    readonly signal: AbortSignal;
  },
): Promise<number> {
  const { numBeams, lengthPenalty, earlyStopping, numReturnSequences } = flags;
  const beams = { numBeams, lengthPenalty, earlyStopping, numReturnSequences };
  const options = { ...samplingOf(flags), ...beams, signal };
  if (flags.json || (numBeams ?? 1) > 1) {
    const results = await generate(model, prompts, options);
    const texts = results.flatMap((one) => [one, ...one.alternatives ?? []]);
    context.out(
      flags.json
        ? results.map((result) => JSON.stringify(result) + "\n").join("")
        : texts.map(({ text }) => text).join("\n\n") + "\n",
    );
    return 0;
  }
  // One text after the other: those of later prompts wait until the ones before are complete.
  const waiting = prompts.map(() => ""), ended = new Set<number>();
  let shown = 0;
  try {
    for await (const { row, text, finishReason } of generateStream(model, prompts, options)) {
      if (row === shown) context.out(text);
      else waiting[row] += text;
      if (finishReason) ended.add(row);
      while (ended.has(shown) && shown < prompts.length - 1) {
        context.out(`\n\n${waiting[++shown]}`);
      }
    }
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error;
    context.out("\n");
    return INTERRUPTED;
  }
  context.out("\n");
  return 0;
}
