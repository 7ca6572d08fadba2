import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { inFolder, namesIn } from "../io/folder.ts";
import { jsonLines, tinyModel } from "./run.ts";

const CLI = new URL("../../lib/cli/mod.ts", import.meta.url).pathname;

function start(args: readonly string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--no-check", CLI, ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

Deno.test("a process: exit codes, and messages apart from results", async () => {
  const cases = [[["inspect", "/does/not/exist"], 1], [["inspect"], 2], [
    ["--version"],
    0,
  ]] as const;
  for (const [args, expected] of cases) {
    const { code, stdout, stderr } = await start(args).output();
    assertEquals(code, expected, args.join(" "));
    assertEquals(stdout.length > 0, expected === 0);
    assertEquals(stderr.length > 0, expected !== 0);
  }
});

Deno.test("a process: help needs no permission, and what is missing is named", async () => {
  const run = (...args: string[]) =>
    new Deno.Command(Deno.execPath(), { args: ["run", "--no-prompt", "--no-check", CLI, ...args] })
      .output();
  for (const command of ["", "plan", "train", "generate", "chat", "merge", "inspect"]) {
    const { code, stderr } = await run(...[command, "--help"].filter(Boolean));
    assertEquals([code, new TextDecoder().decode(stderr)], [0, ""], command);
  }
  const { code, stderr } = await run("inspect", "/does/not/exist");
  assertEquals(code, 1);
  assertStringIncludes(new TextDecoder().decode(stderr), "--allow-read");
});

Deno.test("a process: a chat takes lines from a pipe", async () => {
  await inFolder(async (folder) => {
    const args = ["chat", await tinyModel(folder), "--device", "cpu", "--max-new-tokens", "4"];
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--allow-all", "--no-check", CLI, ...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode("one\ntwo\n/undo\ntwo"));
    await writer.close();
    const { code, stdout, stderr } = await child.output();
    const lines = new TextDecoder().decode(stdout).split("\n");
    assertEquals([code, new TextDecoder().decode(stderr), lines.length], [0, "", 4]);
    assertEquals(lines[1], lines[2]);
  });
});

Deno.test("a process: SIGINT during training ends it after the step, with a checkpoint and code 130", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const data = await jsonLines(folder, "data.jsonl", [{ text: "again and again" }]);
    const out = `${folder}/out`;
    const child = start([
      ...["train", model, "--data", data, "--out", out, "--device", "cpu"],
      ...["--max-steps", "1000000", "--logging-steps", "1"],
    ]);
    let err = "";
    const decoder = new TextDecoder();
    for await (const chunk of child.stderr) {
      const before = err;
      err += decoder.decode(chunk, { stream: true });
      if (!before.includes("step 2/") && err.includes("step 2/")) child.kill("SIGINT");
    }
    await child.stdout.cancel();
    assertEquals((await child.status).code, 130, err);
    const [, step] = err.match(/Stopped after step (\d+) of 1000000/) ?? [];
    assertStringIncludes(err, `checkpoint-${step}`);
    assertEquals(namesIn(out), [`checkpoint-${step}`]);
    const files = namesIn(`${out}/checkpoint-${step}`);
    for (const name of ["trainer_state.json", "adapter_config.json", "adapter_model.safetensors"]) {
      assert(files.includes(name), `${files}`);
    }
  });
});
