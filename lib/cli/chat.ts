/**
 * `chat`: a conversation in the terminal.
 *
 * @module
 */
import { type Command, InvalidArgumentError, type Option } from "commander";
import type { AnyModel } from "../adapters/peft-model.ts";
import { withAdapterScale } from "../adapters/scope.ts";
import { adapterOf, disableAdapters, setAdapter } from "../adapters/select.ts";
import { GraftError } from "../errors.ts";
import { generateStream } from "../generation/generate.ts";
import { createPrefixCache, type PrefixCache } from "../generation/prefix-cache.ts";
import { writeFileAtomic } from "../io/atomic.ts";
import type { ChatMessage } from "../io/chat-template.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import {
  type CliContext,
  type CommandContext,
  describe,
  INTERRUPTED,
  interruptible,
} from "./context.ts";
import { addSamplingOptions, type SamplingFlags, samplingOf } from "./generate.ts";
import { addModelOptions, type ModelFlags, withAdapter, withModel } from "./options.ts";

interface ChatFlags extends ModelFlags, SamplingFlags {
  readonly adapter?: readonly string[];
  readonly system?: string;
}

/** A conversation: a value that each command and each answer makes anew. */
interface Chat {
  readonly base: ModelGraph;
  /** The base with all adapters that were loaded. */
  readonly loaded: AnyModel;
  /** The adapters in use. */
  readonly active: readonly string[];
  /** Factors of adapters' scaling, where it is not 1. */
  readonly scales: ReadonlyMap<string, number>;
  /** What answers: `loaded` with the adapters in use, scaled. */
  readonly model: AnyModel;
  readonly messages: readonly ChatMessage[];
  readonly flags: ChatFlags;
  /** What `/set` can change. */
  readonly options: readonly Option[];
  /** Where it takes place. */
  readonly context: CliContext;
}

interface ChatCommand {
  readonly usage: string;
  readonly help: string;
  /** Gives the conversation that follows, and what to say; without a conversation it ends. */
  run(
    chat: Chat,
    words: readonly string[],
    text: string,
  ): Promise<{ readonly chat?: Chat; readonly said?: string; readonly answer?: boolean }>;
}

const COMMANDS: Readonly<Record<string, ChatCommand>> = {
  help: {
    usage: "",
    help: "show the commands",
    run: (chat) => Promise.resolve({ chat, said: helpText() }),
  },
  exit: { usage: "", help: "leave, as Ctrl-D does", run: () => Promise.resolve({}) },
  clear: {
    usage: "",
    help: "begin anew, with the same system message",
    run: (chat) => Promise.resolve({ chat: { ...chat, messages: chat.messages.filter(isSystem) } }),
  },
  system: {
    usage: "<text>",
    help: "set the system message, or take it out",
    run(chat, _, content) {
      const others = chat.messages.filter((message) => !isSystem(message));
      const messages = content ? [{ role: "system", content }, ...others] : others;
      return Promise.resolve({ chat: { ...chat, messages } });
    },
  },
  undo: {
    usage: "",
    help: "take the last question and its answer back",
    run(chat) {
      const { messages } = chat, last = lastQuestion(messages);
      return Promise.resolve({ chat: { ...chat, messages: messages.slice(0, last) } });
    },
  },
  retry: {
    usage: "",
    help: "answer again, with another seed",
    run(chat) {
      const { messages, flags } = chat, last = lastQuestion(messages);
      const again = { ...chat, messages: messages.slice(0, last + 1) };
      return Promise.resolve({
        chat: { ...again, flags: { ...flags, seed: flags.seed + 1 } },
        answer: true,
      });
    },
  },
  set: {
    usage: "<option> <value>",
    help: "change an option of sampling, such as temperature",
    run(chat, [name = "", ...values]) {
      const option = chat.options.find(({ long }) => long === `--${name.replace(/^--/, "")}`);
      if (!option) {
        const names = chat.options.map(({ long }) => long!.slice(2));
        throw new ChatError(`There is no option ${name}; there are ${names.join(", ")}.`);
      }
      const flags = { ...chat.flags, [option.attributeName()]: valueOf(option, values) };
      return Promise.resolve({ chat: { ...chat, flags } });
    },
  },
  load: {
    usage: "<folder> [<name>]",
    help: "load an adapter and use it alone",
    async run(chat, [folder = "", name = nameOf(folder)]) {
      return { chat: await load(chat, folder, name), said: `${name} is in use.` };
    },
  },
  adapters: {
    usage: "",
    help: "show which adapters there are",
    run: (chat) => Promise.resolve({ chat, said: adapterLines(chat) }),
  },
  adapter: {
    usage: "<name...> | none",
    help: "use these adapters together, or none",
    async run(chat, words) {
      const names = words.length === 1 && words[0] === "none" ? [] : words;
      if (words.length === 0) throw new ChatError("Name the adapters, or none.");
      return { chat: await derive({ ...chat, active: names }) };
    },
  },
  scale: {
    usage: "[<name>] <factor>",
    help: "multiply what an adapter adds (1: as trained)",
    async run(chat, words) {
      const factor = Number(words.at(-1) ?? NaN);
      const names = words.length > 1 ? words.slice(0, -1) : chat.active;
      if (!Number.isFinite(factor)) throw new ChatError("The factor must be a number.");
      if (names.length === 0) throw new ChatError("No adapter is in use.");
      if (chat.loaded.type !== "peft") throw new ChatError(NONE);
      for (const name of names) adapterOf(chat.loaded, name);
      const scales = new Map([...chat.scales, ...names.map((n): [string, number] => [n, factor])]);
      return { chat: await derive({ ...chat, scales }) };
    },
  },
  save: {
    usage: "<file>",
    help: "write the conversation as a row to train on",
    async run(chat, _, path) {
      if (!path) throw new ChatError("Name a file.");
      await writeFileAtomic(path, `${JSON.stringify({ messages: chat.messages })}\n`);
      return { chat, said: `${path} is written.` };
    },
  },
};

const NONE = "No adapter was loaded: /load takes its folder.";

/** What a command says when it cannot be done. */
class ChatError extends Error {}

/** Adds the command. */
export function addChatCommand(program: Command, context: CommandContext): void {
  const command = program.command("chat")
    .summary("talk with a model")
    .description(
      "A conversation with a model, which answers as it comes. The model stays loaded, and each answer reads only " +
        "what is new. Lines that begin with / are commands: /help shows them. Ctrl-C ends an answer, Ctrl-D the conversation.",
    )
    .option(
      "--adapter <folder...>",
      "adapter to load, as folder or name=folder, or an id on the hub; the first of several is used at first",
    )
    .option("--system <text>", "system message of the chat");
  const own = command.options.length;
  addSamplingOptions(command, { maxNewTokens: 1024 });
  const options = command.options.slice(own);
  addModelOptions(command).addHelpText(
    "after",
    `
Commands in a conversation:
${helpText()}

Examples:
  chat SmolLM2-135M-Instruct.Q4_1.gguf --system "You are a sailor."
  chat ./llama --adapter pirate=./out calm=./other --temperature 0.8`,
  ).action(async (source: string, flags: ChatFlags) => {
    context.finish(
      await withModel(source, { flags, context }, (base) => run(base, flags, { context, options })),
    );
  });
}

async function run(
  base: ModelGraph,
  flags: ChatFlags,
  { context, options }: { readonly context: CliContext; readonly options: readonly Option[] },
): Promise<number> {
  const { system, adapter = [] } = flags;
  const messages = system === undefined ? [] : [{ role: "system", content: system }];
  let chat: Chat = {
    base,
    loaded: base,
    active: [],
    scales: new Map(),
    model: base,
    messages,
    flags,
    options,
    context,
  };
  for (const text of adapter) {
    const [, name, folder] = /^([\w.-]+)=(.+)$/.exec(text) ?? [text, nameOf(text), text];
    chat = await load(chat, folder, name);
  }
  if (adapter.length > 1 && chat.loaded.type === "peft") {
    chat = await derive({ ...chat, active: [[...chat.loaded.adapters.keys()][0]] });
  }
  using cache = createPrefixCache();
  let code = 0;
  let begun = "";
  for await (const part of context.lines(() => begun ? ". " : "> ")) {
    // A backslash at its end goes on in the next line.
    if (part.endsWith("\\")) {
      begun += `${part.slice(0, -1)}\n`;
      continue;
    }
    const line = begun + part;
    begun = "";
    if (line.trim() === "") continue;
    try {
      const turn = line.startsWith("/")
        ? await command(chat, line)
        : { chat: ask(chat, line), answer: true };
      if (turn.said) context.err(`${turn.said}\n`);
      if (!turn.chat) return code;
      // A question that fails is taken back, so that the next one does not fail with it.
      const next = turn.answer ? await answer(turn.chat, cache, context) : turn.chat;
      if (!next) return INTERRUPTED;
      chat = next;
    } catch (error) {
      if (!(error instanceof ChatError || error instanceof GraftError)) throw error;
      context.err(`${error instanceof ChatError ? error.message : describe(error)}\n`);
      if (context.piped) code = 1;
    }
  }
  return code;
}

async function command(chat: Chat, line: string) {
  const [, name, rest] = /^\/(\S*)\s*([^]*)$/.exec(line)!, text = rest.trim();
  const found = name === "quit" ? "exit" : name;
  if (!Object.hasOwn(COMMANDS, found)) {
    throw new ChatError(
      `There is no command /${name}; there are /${Object.keys(COMMANDS).join(", /")}.`,
    );
  }
  return await COMMANDS[found].run(chat, text.split(/\s+/).filter(Boolean), text);
}

function ask(chat: Chat, content: string): Chat {
  return { ...chat, messages: [...chat.messages, { role: "user", content }] };
}

/** The conversation with the model's answer, or as much of it as Ctrl-C has let through. */
async function answer(
  chat: Chat,
  cache: PrefixCache,
  context: CliContext,
): Promise<Chat | undefined> {
  let content = "";
  const code = await interruptible(context, async (signal) => {
    const options = { ...samplingOf(chat.flags), cache, signal };
    try {
      for await (const { text } of generateStream(chat.model, chat.messages, options)) {
        content += text;
        context.out(text);
      }
    } finally {
      if (content || signal.aborted) context.out("\n");
    }
    return 0;
  });
  if (code === INTERRUPTED && context.piped) return undefined;
  return { ...chat, messages: [...chat.messages, { role: "assistant", content }] };
}

async function load(chat: Chat, folder: string, adapterName: string): Promise<Chat> {
  if (!folder) throw new ChatError("Name the folder of the adapter.");
  const loaded = await withAdapter(chat.loaded, folder, { adapterName, context: chat.context });
  return await derive({ ...chat, loaded, active: [adapterName] });
}

/** The conversation with the model that its adapters and their scales make. */
async function derive(chat: Chat): Promise<Chat> {
  const { loaded, active, base } = chat;
  if (loaded.type !== "peft") {
    if (active.length === 0) return { ...chat, model: base };
    throw new ChatError(NONE);
  }
  if (active.length === 0) return { ...chat, model: disableAdapters(loaded) };
  const model = setAdapter(loaded, active);
  const scales = Object.fromEntries([...chat.scales].filter(([name]) => active.includes(name)));
  if (Object.keys(scales).length === 0) return { ...chat, model };
  const { value } = await withAdapterScale(model, scales, (scaled) => scaled);
  return { ...chat, model: value };
}

function adapterLines({ loaded, active, scales }: Chat): string {
  if (loaded.type !== "peft") return NONE;
  return [...loaded.adapters.values()].map(({ name, config }) => {
    const scale = scales.get(name) ?? 1;
    return `${active.includes(name) ? "*" : " "} ${name} (${config.peftType}${
      scale === 1 ? "" : `, scaled by ${scale}`
    })`;
  }).join("\n");
}

/** The value of an option, read as on the command line. */
function valueOf(option: Option, values: readonly string[]): unknown {
  if (option.isBoolean()) return values[0] !== "off";
  if (option.variadic) return values.length ? values : undefined;
  if (values.length === 0) return option.defaultValue;
  try {
    return option.parseArg ? option.parseArg(values[0], undefined) : values[0];
  } catch (error) {
    if (error instanceof InvalidArgumentError) throw new ChatError(error.message);
    throw error;
  }
}

function helpText(): string {
  const rows = Object.entries(COMMANDS).map(([name, { usage, help }]) =>
    [`/${name} ${usage}`.trim(), help] as const
  );
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows.map(([left, help]) => `  ${left.padEnd(width)}  ${help}`).join("\n");
}

function isSystem({ role }: ChatMessage): boolean {
  return role === "system";
}

function lastQuestion(messages: readonly ChatMessage[]): number {
  const last = messages.findLastIndex(({ role }) => role === "user");
  if (last < 0) throw new ChatError("Nothing was asked yet.");
  return last;
}

/** A name for the adapter of a folder: its last part. */
function nameOf(folder: string): string {
  return folder.split(/[\\/]/).filter(Boolean).at(-1)?.replace(/[^\w-]+/g, "-") ?? "";
}
