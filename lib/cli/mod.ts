/**
 * The command line: `plan`, `train`, `generate`, `merge` and `inspect`.
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
import { Command, CommanderError } from "commander";
import config from "../../deno.json" with { type: "json" };
import { GraftError } from "../errors.ts";
import { type CliContext, processContext } from "./context.ts";
import { addGenerateCommand } from "./generate.ts";
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
    })
    .showHelpAfterError("(--help shows what there is)");
  for (
    const add of [
      addPlanCommand,
      addTrainCommand,
      addGenerateCommand,
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
  merge ./llama --adapter ./out --out ./merged
  inspect ./out`,
  );
  try {
    if (args.length === 0) program.help({ error: true });
    await program.parseAsync([...args], { from: "user" });
    return code;
  } catch (error) {
    // Commander has said what is wrong already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    context.err(`${describe(error)}\n`);
    if (args.includes("--verbose") && error instanceof Error) context.err(`${error.stack}\n`);
    return 1;
  }
}

/** An error in one line. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return `Error: ${error}`;
  const kind = error instanceof GraftError ? `${error.name} [${error.code}]` : error.name;
  return `${kind}: ${error.message.replace(/\s*\n\s*/g, " ")}`;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
