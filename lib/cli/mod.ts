/**
 * The command line: `plan`, `train`, `generate`, `chat`, `classify`, `tag`, `answer`, `embed`, `merge` and
 * `inspect`.
 *
 * ```sh
 * deno run -A jsr:@graft/peft/cli --help
 * ```
 *
 * Exit codes: 0 when all went well; 1 with one line on the standard error when something failed; 2
 * for a command or an option that does not exist or cannot be read; 130 after Ctrl-C.
 *
 * @module
 */
import { Command, CommanderError, Help } from "commander";
import config from "../../deno.json" with { type: "json" };
import { addChatCommand } from "./chat.ts";
import { type CliContext, describe, processContext } from "./context.ts";
import { addGenerateCommand } from "./generate.ts";
import { addInferCommands } from "./infer.ts";
import { addInspectCommand } from "./inspect.ts";
import { addMergeCommand } from "./merge.ts";
import { addPlanCommand } from "./plan.ts";
import { addTrainCommand } from "./train.ts";

export type { CliContext } from "./context.ts";

/**
 * Runs a command.
 *
 * @param args What stands after the name of the program.
 * @param context Where results and messages go; this process by default.
 * @returns The exit code.
 *
 * @example
 * ```ts
 * import { main } from "@graft/peft/cli";
 * console.log(await main(["--version"])); // 0
 * ```
 */
export async function main(
  args: readonly string[],
  context: CliContext = processContext(),
): Promise<number> {
  let code = 0;
  const finish = (value: number) => {
    code = value;
  };
  const program = new Command("graft")
    .usage("<command> [options]")
    .description(
      "Parameter-efficient fine-tuning in Deno. Run it as: deno run -A jsr:@graft/peft/cli <command>",
    )
    .version(config.version, "--version", "print the version")
    .option("--verbose", "print the stack of errors")
    .helpOption("-h, --help", "show help")
    .helpCommand("help [command]", "show help for a command")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => context.out(text),
      writeErr: (text) => context.err(text),
      getOutHelpWidth: () => context.columns,
      getErrHelpWidth: () => context.columns,
      // Asking the environment would need a permission, for text that has no colours.
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .configureHelp({
      minWidthToWrap: 20,
      // One spelling beside each description; a second one takes the room of that.
      optionTerm: ({ short, long, flags }) =>
        short?.startsWith("--") ? flags.replace(`, ${long}`, "") : flags,
      optionDescription(option) {
        const { short, long } = option;
        const text = Help.prototype.optionDescription.call(this, option);
        return short?.startsWith("--") ? `${text} (also ${long})` : text;
      },
    })
    .showHelpAfterError("(--help shows what there is)");
  for (
    const add of [
      addPlanCommand,
      addTrainCommand,
      addGenerateCommand,
      addChatCommand,
      addInferCommands,
      addMergeCommand,
      addInspectCommand,
    ]
  ) {
    add(program, { ...context, finish });
  }
  for (const command of program.commands) command.option("--verbose", "print the stack of errors");
  program.addHelpText(
    "after",
    `
Examples:
  plan ./llama --target-modules all-linear
  train ./llama --data data.jsonl --out ./out
  generate ./llama --adapter ./out --prompt "Once upon a time"
  chat ./llama --adapter ./out
  classify ./bert --adapter ./spam --labels mail,spam --text "Buy now!"
  merge ./llama --adapter ./out --out ./merged
  inspect ./out`,
  );
  try {
    if (args.length === 0) program.help({ error: true });
    await program.parseAsync(operandFirst(program, args), { from: "user" });
    return code;
  } catch (error) {
    // Commander has said what is wrong already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    context.err(`${describe(error)}\n`);
    if (args.includes("--verbose") && error instanceof Error) context.err(`${error.stack}\n`);
    return 1;
  }
}

/**
 * The arguments with the one that an option took without needing it in its own place: the model in
 * `generate --prompt hi ./llama`, as `--prompt` takes several.
 */
function operandFirst(program: Command, args: readonly string[]): string[] {
  const command = program.commands.find((command) => command.name() === args[0]);
  let spare: number | undefined;
  for (let i = 1; command && i < args.length; i++) {
    if (args[i] === "--" || !args[i].startsWith("-")) return [...args];
    const option = command.options.find(({ short, long }) => [short, long].includes(args[i]));
    if (option?.required) i++;
    if (!option?.variadic && !option?.optional) continue;
    while (i + 1 < args.length && !args[i + 1].startsWith("-")) {
      spare = ++i;
      if (!option.variadic) break;
    }
  }
  return spare === undefined
    ? [...args]
    : [args[0], args[spare], ...args.slice(1, spare), ...args.slice(spare + 1)];
}

if (import.meta.main) Deno.exit(await main(Deno.args));
