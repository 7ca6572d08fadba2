/**
 * What the command line reads from and writes to.
 *
 * @module
 */
import process from "node:process";
import { createInterface } from "node:readline/promises";
import { GraftError } from "../errors.ts";

/** The outside of a command; tests give their own. */
export interface CliContext {
  /** Writes a result: what a pipe gets. */
  out(text: string): void;
  /** Writes a message: errors, progress. */
  err(text: string): void;
  /** Whether messages go to a terminal, where a line can be drawn anew. */
  readonly terminal: boolean;
  /** Characters in a line of it. */
  readonly columns: number;
  /** Whether results can be coloured. */
  readonly color?: boolean;
  /** Whether there is something to read from the standard input other than a keyboard. */
  readonly piped: boolean;
  /** Reads the standard input to its end. */
  input(): Promise<string>;
  /** Reads the standard input line by line; at a keyboard each is asked for. */
  lines(prompt: () => string): AsyncIterable<string>;
  /** Calls back on Ctrl-C until the returned function is called. */
  onInterrupt(callback: () => void): () => void;
}

/** What a command gets. */
export interface CommandContext extends CliContext {
  /** Takes the exit code of the command. */
  finish(code: number): void;
}

/** This process. */
export function processContext(): CliContext {
  const encoder = new TextEncoder();
  const write = (stream: typeof Deno.stdout | typeof Deno.stderr, text: string) => {
    const bytes = encoder.encode(text);
    try {
      for (let at = 0; at < bytes.length;) at += stream.writeSync(bytes.subarray(at));
    } catch (error) {
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
      // Whoever read the results has seen enough; nobody reading messages is no reason to stop.
      if (stream === Deno.stdout) Deno.exit(0);
    }
  };
  return {
    out: (text) => write(Deno.stdout, text),
    err: (text) => write(Deno.stderr, text),
    terminal: Deno.stderr.isTerminal(),
    columns: columns(),
    color: Deno.stdout.isTerminal() && !Deno.noColor,
    piped: !Deno.stdin.isTerminal(),
    input: () => new Response(Deno.stdin.readable).text(),
    lines: (prompt) =>
      Deno.stdin.isTerminal() ? askedLines(prompt) : createInterface({ input: process.stdin }),
    onInterrupt(callback) {
      Deno.addSignalListener("SIGINT", callback);
      return () => Deno.removeSignalListener("SIGINT", callback);
    },
  };
}

/** Lines from a keyboard, with a history, until Ctrl-D or Ctrl-C. */
async function* askedLines(prompt: () => string): AsyncGenerator<string, void, void> {
  let history: string[] = [];
  for (;;) {
    // One reader for each line: while there is one, the terminal does not send Ctrl-C.
    const reader = createInterface({
      input: process.stdin,
      output: process.stderr,
      history,
      historySize: 1000,
      removeHistoryDuplicates: true,
    });
    reader.on("history", (lines: string[]) => history = [...lines]);
    const line = await new Promise<string | undefined>((resolve) => {
      reader.once("close", () => resolve(undefined));
      reader.once("SIGINT", () => reader.close());
      reader.question(prompt()).then(resolve, () => resolve(undefined));
    });
    reader.close();
    if (line === undefined) {
      process.stderr.write("\n");
      return;
    }
    yield line;
  }
}

/** Width of the terminal; 80 where there is none. */
function columns(): number {
  try {
    return Deno.consoleSize().columns;
  } catch {
    return 80;
  }
}

/** Exit code of a command that Ctrl-C ended, as shells have it. */
export const INTERRUPTED = 130;

/**
 * Runs a command whose work Ctrl-C ends early. A second Ctrl-C is left to the system, which ends
 * the process at once.
 *
 * @param run Gets the signal; does what it still has to do after it and gives the exit code.
 */
export async function interruptible(
  context: CliContext,
  run: (signal: AbortSignal) => Promise<number>,
): Promise<number> {
  const controller = new AbortController();
  const stop = context.onInterrupt(() => {
    stop();
    controller.abort(new DOMException("Ctrl-C", "AbortError"));
  });
  try {
    return await run(controller.signal);
  } catch (error) {
    if (controller.signal.aborted && error === controller.signal.reason) return INTERRUPTED;
    throw error;
  } finally {
    stop();
  }
}

/** An error in one line. */
export function describe(error: unknown): string {
  if (!(error instanceof Error)) return `Error: ${error}`;
  const kind = error instanceof GraftError ? `${error.name} [${error.code}]` : error.name;
  return `${kind}: ${error.message.replace(/\s*\n\s*/g, " ")}`;
}
