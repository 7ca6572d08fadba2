/**
 * What the command line reads from and writes to.
 *
 * @module
 */

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
  /** Whether there is something to read from the standard input other than a keyboard. */
  readonly piped: boolean;
  /** Reads the standard input to its end. */
  input(): Promise<string>;
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
    piped: !Deno.stdin.isTerminal(),
    input: () => new Response(Deno.stdin.readable).text(),
    onInterrupt(callback) {
      Deno.addSignalListener("SIGINT", callback);
      return () => Deno.removeSignalListener("SIGINT", callback);
    },
  };
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
