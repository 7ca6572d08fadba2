/**
 * Makes the files under tests/golden/ again, with the real PEFT: runs tests/golden/generate.py in
 * the Python that `GRAFT_ORACLE_PYTHON` names (default `python3`). Arguments go to the script.
 *
 * @module
 */

const python = Deno.env.get("GRAFT_ORACLE_PYTHON") ?? "python3";

/** Runs Python and returns its exit code; 127 where there is none. */
async function runPython(args: readonly string[]): Promise<number> {
  try {
    const command = new Deno.Command(python, { args: [...args], stdin: "null" });
    return (await command.spawn().status).code;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 127;
    throw error;
  }
}

if (await runPython(["-c", "import peft, safetensors, torch, transformers"]) !== 0) {
  console.error(
    `${python} cannot import peft, safetensors, torch and transformers. ` +
      "Install them (pip install peft safetensors torch transformers), or name a Python that " +
      "has them in GRAFT_ORACLE_PYTHON.",
  );
  Deno.exit(1);
}
const script = new URL("../golden/generate.py", import.meta.url).pathname;
Deno.exitCode = await runPython([script, ...Deno.args]);
