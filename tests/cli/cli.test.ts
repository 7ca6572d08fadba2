import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
} from "@std/assert";
import { savePretrained } from "../../lib/adapters/checkpoint/save.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { resizeTokenEmbeddings } from "../../lib/io/resize-token-embeddings.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { inFolder, namesIn } from "../io/folder.ts";
import { cli, jsonLines, tinyModel } from "./run.ts";

const CPU = ["--device", "cpu"] as const;

Deno.test("help, version and usage: their texts and exit codes", async () => {
  const help = await cli(["--help"]);
  assertEquals([help.code, help.err], [0, ""]);
  const READS = ["classify", "tag", "answer", "embed"];
  for (const command of ["plan", "train", "generate", "chat", ...READS, "merge", "inspect"]) {
    assertStringIncludes(help.out, command);
    const own = await cli([command, "--help"]);
    assertEquals([own.code, own.err], [0, ""], command);
    assertStringIncludes(own.out, "Examples:");
    assertEquals((await cli(["help", command])).out, own.out);
    assertEquals(own.out.split("\n").filter((line) => line.length > 80), [], command);
  }
  assertMatch((await cli(["--version"])).out, /^\d+\.\d+\.\d+\n$/);
  const wrong: readonly (readonly [readonly string[], string])[] = [
    [[], "Usage:"],
    [["tran"], "train"],
    [["plan"], "missing required argument 'model'"],
    [["plan", "m", "--rank", "3"], "unknown option '--rank'"],
    [["plan", "m", "--r", "0"], "'--r <n>' argument '0' is invalid"],
    [["plan", "m", "--bias", "some"], "Allowed choices are none, all, lora_only"],
    [["plan", "m", "--rank-pattern", "[1]"], "must be a JSON object"],
    [["plan", "m", "--lora-dropout", "1"], "must be a number from 0 below 1"],
    [["generate", "m", "--top-p", "2"], "must be a number from 0 to 1"],
    [["generate", "m", "--repetition-penalty", "0"], "must be a number above 0"],
    [["merge", "m", "--max-shard-size", "0GB"], "must be above 0"],
    [["train", "m", "--out", "o"], "--data"],
    [["train", "m", "--data", "d", "--out", "o", "--adapter", "a", "--r", "4"], "--adapter brings"],
    [["generate", "m", "--top-p", "1.5"], "from 0 to 1"],
    [["generate", "m"], "no prompt was given"],
    [["merge", "m", "--out", "o"], "--adapter"],
    [["merge", "m", "--adapter", "a", "--out", "o", "--max-shard-size", "big"], "5GB"],
  ];
  for (const [args, part] of wrong) {
    const { code, out, err } = await cli(args);
    assertEquals([code, out], [2, ""], args.join(" "));
    assertStringIncludes(err, part);
  }
});

Deno.test("failures: one line with the error's type, the stack only with --verbose", async () => {
  await inFolder(async (folder) => {
    const missing = `${folder}/nothing here`;
    const { code, out, err } = await cli(["inspect", missing]);
    assertEquals([code, out], [1, ""]);
    assertMatch(err, /^FileError \[FILE_NOT_FOUND\]: [^\n]*nothing here[^\n]*\n$/);
    const loud = await cli(["inspect", missing, "--verbose"]);
    assert(loud.err.startsWith(err));
    assertMatch(loud.err, /\n {4}at /);
    assertEquals((await cli(["--verbose", "inspect", missing])).code, 1);
  });
});

Deno.test("plan: patterns, parameters and cost, as text and as JSON", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const text = await cli(["plan", model, "--r", "4", "--target-modules", "q_proj,v_proj"]);
    assertEquals([text.code, text.err], [0, ""]);
    // Rank 4 on 32 → 32 and 32 → 16, in two layers.
    assertStringIncludes(text.out, `trainable params: ${2 * 4 * (64 + 48)} ||`);
    assertStringIncludes(text.out, "model.layers.0.self_attn.q_proj …");
    const { code, out } = await cli([
      ...["plan", model, "--r", "4", "--target-modules", "q_proj,up_proj", "--json"],
      ...["--layers-to-transform", "1", "--batch-size", "2", "--max-length", "16"],
    ]);
    assertEquals(code, 0);
    const plan = JSON.parse(out);
    assertEquals(plan.sites.length, 2);
    assert(plan.sites.every((site: { layer: number }) => site.layer === 1));
    assertEquals([plan.step.batchSize, plan.step.length], [2, 16]);
    assert(plan.step.flops > 1e5 && plan.step.peakMemory > plan.step.inputBytes);
    const wrong = await cli(["plan", model, "--target-modules", "q_prj", "--json"]);
    assertEquals(wrong.code, 1);
    assertStringIncludes(wrong.err, "[TARGET_NOT_FOUND]");
    assertEquals(JSON.parse(wrong.out).problems[0].code, "TARGET_NOT_FOUND");
    const regex = await cli(["plan", model, "--target-modules", ".*\\.(up|down)_proj", "--json"]);
    assertEquals(JSON.parse(regex.out).sites.length, 4);
  });
});

Deno.test("inspect: checkpoint, adapter and file, as text and as JSON", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const { code, out } = await cli(["inspect", model, "--json"]);
    assertEquals(code, 0);
    const found = JSON.parse(out);
    assertEquals([found.kind, found.format, found.config.hidden_size], [
      "checkpoint",
      "safetensors",
      32,
    ]);
    assertEquals(found.tensors.length, found.totals.tensors);
    const sum = found.tensors.reduce((n: number, t: { bytes: number }) => n + t.bytes, 0);
    assertEquals([sum, 4 * found.totals.parameters], [found.totals.bytes, found.totals.bytes]);
    assertEquals(found.tensors.find((t: { name: string }) => t.name === "model.norm.weight"), {
      name: "model.norm.weight",
      dtype: "f32",
      shape: [32],
      bytes: 128,
    });
    const text = (await cli(["inspect", model])).out;
    assertStringIncludes(text, "hidden_size: 32");
    assertMatch(text, /model\.norm\.weight +f32 +\[32\] +128 B/);
    const file = JSON.parse((await cli(["inspect", `${model}/model.safetensors`, "--json"])).out);
    assertEquals([file.kind, file.metadata], ["safetensors", { format: "pt" }]);
  });
});

Deno.test("generate: prompts as arguments and from a pipe, chats, batches and JSON", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const options = [...CPU, "--max-new-tokens", "8"];
    const one = await cli(["generate", model, "--prompt", "abc", ...options]);
    assertEquals([one.code, one.err], [0, ""]);
    assert(one.out.endsWith("\n"));
    assertEquals((await cli(["generate", model, ...options], { input: "abc\n" })).out, one.out);
    const json = await cli(["generate", model, "--prompt", "abc", "--json", ...options]);
    const parsed = JSON.parse(json.out);
    assertEquals(`${parsed.text}\n`, one.out);
    assertEquals(parsed.promptIds, [97, 98, 99]);
    const two = await cli(["generate", model, "--prompt", "abc", "xy", "--json", ...options]);
    const lines = two.out.trimEnd().split("\n").map((line) => JSON.parse(line));
    assertEquals(lines.length, 2);
    assertEquals(lines[0], parsed);
    const texts = await cli(["generate", model, "--prompt", "abc", "xy", ...options]);
    assertEquals(texts.out, `${lines[0].text}\n\n${lines[1].text}\n`);
    for (
      const first of [["--prompt", "abc", "xy", model, ...options], [
        ...options,
        "--prompt",
        "abc",
        "xy",
        model,
      ]]
    ) {
      assertEquals((await cli(["generate", ...first])).out, texts.out);
    }
    const chat = await cli(
      ["generate", model, "--chat", "--system", "s", "--prompt", "hi", "--json", ...options],
    );
    assertEquals(JSON.parse(chat.out).promptIds.slice(0, 9), [
      ...new TextEncoder().encode("<system>s"),
    ]);
    const sampled = (seed: string) =>
      cli(["generate", model, "--prompt", "a", "--temperature", "1.5", "--seed", seed, ...options]);
    assertEquals((await sampled("3")).out, (await sampled("3")).out);
    assertNotEquals((await sampled("3")).out, (await sampled("4")).out);
    const empty = await cli(["generate", model, "--prompt", "", ...options]);
    assertEquals(empty.code, 1);
    assertStringIncludes(empty.err, "ValueError [PROMPT_EMPTY]");
  });
});

Deno.test("train, generate, merge: a job from data to a checkpoint", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const data = await jsonLines(folder, "data.jsonl", [
      { text: "the cat sat on the mat" },
      { prompt: "the cat ", completion: "sat on the mat" },
      { messages: [{ role: "user", content: "q" }, { role: "assistant", content: "sat" }] },
    ]);
    const out = `${folder}/out`;
    const trained = await cli([
      ...["train", model, "--data", data, "--eval-data", data, "--out", out, ...CPU],
      ...["--r", "4", "--lora-alpha", "16", "--target-modules", "all-linear"],
      ...[
        "--learning-rate",
        "0.02",
        "--num-train-epochs",
        "15",
        "--batch-size",
        "3",
        "--save-steps",
        "10",
      ],
      ...["--eval-steps", "5", "--logging-steps", "5"],
    ]);
    assertEquals(trained.code, 0, trained.err);
    assertMatch(trained.out, /adapter after 15 steps, loss \d\.\d{4} → \d\.\d{4}, eval loss/);
    const [, first, last] = trained.out.match(/loss (\S+) → ([\d.]+)/)!;
    assert(Number(last) < Number(first) / 2, trained.out);
    assertMatch(trained.err, /step 5\/15 +loss .* eval loss .* tokens\/s/);
    assertEquals(
      namesIn(out),
      [
        ...["README.md", "adapter_config.json", "adapter_model.safetensors"],
        ...["checkpoint-10", "checkpoint-15", "history.jsonl", "training_options.json"],
      ],
    );
    const config = JSON.parse(await Deno.readTextFile(`${out}/adapter_config.json`));
    assertEquals([config.r, config.lora_alpha, config.task_type], [4, 16, "CAUSAL_LM"]);
    const adapter = JSON.parse((await cli(["inspect", out, "--json"])).out);
    assertEquals([adapter.kind, adapter.tensors.length], ["adapter", 28]);

    const say = ["--prompt", "the cat ", "--json", "--max-new-tokens", "12", ...CPU];
    const adapted = await cli(["generate", model, "--adapter", out, ...say]);
    assertNotEquals(adapted.out, (await cli(["generate", model, ...say])).out);
    const merged = `${folder}/merged`;
    const merging = await cli(["merge", model, "--adapter", out, "--out", merged]);
    assertEquals(merging.code, 0, merging.err);
    assertEquals(
      namesIn(merged),
      ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
    );
    assertEquals((await cli(["generate", merged, ...say])).out, adapted.out);

    const checked = ["merge", model, "--adapter", out, "--out", `${folder}/checked`];
    const exact = await cli([...checked, "--tolerance", "1e-5"]);
    assertEquals(exact.code, 0, exact.err);
    assertMatch(exact.out, /^\d+ layers in f32: [\d.e-]+ % of the change lost, /);
    const rough = await cli([
      ...checked,
      "--overwrite",
      "--save-dtype",
      "bf16",
      "--tolerance",
      "0",
    ]);
    assertEquals(rough.code, 1);
    assertStringIncludes(rough.err, "[MERGE_TOLERANCE]");

    const again = await cli(["merge", model, "--adapter", out, "--out", merged]);
    assertEquals(again.code, 1);
    assertStringIncludes(again.err, "ValueError [OUT_EXISTS]");
    const shards = await cli([
      ...["merge", model, "--adapter", out, "--out", merged, "--overwrite"],
      ...["--max-shard-size", "40kB", "--save-dtype", "bf16"],
    ]);
    assertEquals(shards.code, 0, shards.err);
    assert(namesIn(merged).includes("model.safetensors.index.json"));
    assert(!namesIn(merged).includes("model.safetensors"));
    const inspected = JSON.parse((await cli(["inspect", merged, "--json"])).out);
    assertEquals([Object.keys(inspected.dtypes), inspected.config.dtype], [["bf16"], "bfloat16"]);
    const more = await cli([
      ...["train", model, "--data", data, "--out", `${folder}/more`, "--adapter", out],
      ...["--max-steps", "1", ...CPU],
    ]);
    assertEquals(more.code, 0, more.err);
    assert(Number(more.out.match(/loss (\S+) →/)![1]) < Number(first) / 2);
  });
});

Deno.test("train: Ctrl-C leaves a checkpoint, and a resumed run goes on to the same losses", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const data = await jsonLines(
      folder,
      "data.jsonl",
      Array.from({ length: 7 }, (_, i) => ({ text: `line ${i} of ${i * i} lines` })),
    );
    const train = (out: string) => [
      ...["train", model, "--data", data, "--out", out, ...CPU, "--max-steps", "9"],
      ...["--batch-size", "2", "--logging-steps", "1", "--lora-dropout", "0.1", "--packing"],
      ...["--max-length", "64", "--schedule", "cosine", "--learning-rate", "0.01"],
    ];
    const losses = (err: string) =>
      [...err.matchAll(/^step (\d+)\/9 +loss (\S+)/gm)].map(([, step, loss]) => `${step} ${loss}`);
    const whole = await cli(train(`${folder}/whole`));
    assertEquals(whole.code, 0, whole.err);
    assertEquals(losses(whole.err).length, 9);

    const out = `${folder}/broken`;
    const stopped = await cli(train(out), { interruptAfter: "step 4/9" });
    assertEquals([stopped.code, stopped.out], [130, ""], stopped.err);
    assertStringIncludes(stopped.err, "Stopped after step 4 of 9");
    assertEquals(namesIn(out), ["checkpoint-4"]);
    const refused = await cli(train(out));
    assertEquals(refused.code, 1);
    assertStringIncludes(refused.err, "ValueError [OUT_EXISTS]");
    const resumed = await cli([...train(out), "--resume"]);
    assertEquals(resumed.code, 0, resumed.err);
    assertEquals([...losses(stopped.err), ...losses(resumed.err)], losses(whole.err));
    assertEquals(
      await Deno.readFile(`${out}/adapter_model.safetensors`),
      await Deno.readFile(`${folder}/whole/adapter_model.safetensors`),
    );
    const again = [...train(out), "--resume", "--save-steps", "5"];
    assertEquals((await cli(again)).code, 0);
    const done = await cli(again);
    assertEquals(done.code, 0, done.err);
    assertStringIncludes(done.err, "Nothing is left to train: the run has taken 9 of 9 steps.");
    const other = await jsonLines(folder, "other.jsonl", [{ text: "nothing of the kind" }]);
    const changed = [...train(out), "--data", other, "--max-steps", "12", "--resume"];
    const mismatch = await cli(changed);
    assertEquals(mismatch.code, 1);
    assertStringIncludes(mismatch.err, "TrainingError [RESUME_MISMATCH]");
    assertEquals((await cli([...changed, "--resume-anyway"])).code, 0);
    const over = await cli([...train(out), "--overwrite"], { interruptAfter: "step 2/9" });
    assertEquals(over.code, 130);
    assert(namesIn(out).includes("checkpoint-2"));
    assert(!namesIn(out).includes("checkpoint-4"));
  });
});

Deno.test("train: a part held back, samples, the best adapter, few checkpoints, early end", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const lines = Array.from({ length: 10 }, (_, i) => ({ text: `line ${i} of ${i * i} lines` }));
    const data = await jsonLines(folder, "data.jsonl", lines);
    const out = `${folder}/out`;
    const run = await cli([
      ...["train", model, "--data", data, "--out", out, ...CPU, "--num-train-epochs", "20"],
      ...["--eval-split", "0.15", "--eval-steps", "1", "--save-steps", "1", "--batch-size", "2"],
      ...["--save-total-limit", "2", "--load-best-model-at-end", "--learning-rate", "0.5"],
      ...["--early-stopping-patience", "2", "--sample-prompt", "line", "other"],
    ]);
    assertEquals(run.code, 0, run.err);
    assertStringIncludes(run.err, "8 examples");
    assertEquals(run.err.match(/^"line" → ".*"$/gm)?.length, run.err.match(/eval loss/g)!.length);
    const history = (await Deno.readTextFile(`${out}/history.jsonl`)).trim().split("\n")
      .map((line) => JSON.parse(line));
    assert(history.length < 80, `${history.length} steps`);
    const best = history.reduce((a, b) => b.evalLoss < a.evalLoss ? b : a);
    assertEquals(best.step, history.length - 2);
    assertMatch(run.out, new RegExp(`^${out}: adapter after ${best.step} steps?,`));
    assertEquals(
      namesIn(out).filter((name) => name.startsWith("checkpoint-")).sort(),
      [`checkpoint-${best.step}`, `checkpoint-${history.length}`].sort(),
    );
    assertEquals(
      await Deno.readFile(`${out}/adapter_model.safetensors`),
      await Deno.readFile(`${out}/checkpoint-${best.step}/adapter_model.safetensors`),
    );
    const options = JSON.parse(await Deno.readTextFile(`${out}/training_options.json`));
    assertEquals([options.learningRate, options.batchSize], [0.5, 2]);
    assert(!JSON.stringify(options).includes(folder));
    const all = await cli([
      ...[
        "train",
        model,
        "--data",
        data,
        "--out",
        `${folder}/none`,
        ...CPU,
        "--eval-split",
        "0.99",
      ],
    ]);
    assertStringIncludes(all.err, "TrainingError [DATASET_EMPTY]");
  });
});

Deno.test("train: an adapter that cannot be saved in its place is saved in another", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const data = await jsonLines(folder, "data.jsonl", [{ text: "some text" }]);
    const out = `${folder}/out`;
    const args = ["train", model, "--data", data, "--out", out, ...CPU, "--steps", "1"];
    assertEquals((await cli(args)).code, 0);
    const expected = await Deno.readFile(`${out}/adapter_model.safetensors`);
    await Deno.remove(out, { recursive: true });
    const run = cli([...args, "--logging-steps", "1"], {
      // As a disk that fails in the last step.
      onMessage: (text) => {
        if (!text.startsWith("step 1/1")) return;
        Deno.removeSync(out, { recursive: true });
        Deno.writeTextFileSync(out, "a file in its place");
      },
    });
    const { code, err, out: said } = await run;
    assertEquals(code, 1);
    const [, other] = /The adapter was saved in (\S+) instead/.exec(err)!;
    assertEquals(await Deno.readFile(`${other}/adapter_model.safetensors`), expected);
    assertStringIncludes(said, other);
    await Deno.remove(other, { recursive: true });
  });
});

Deno.test("train: what cannot be trained ends in one line", async () => {
  await inFolder(async (folder) => {
    const model = await tinyModel(folder);
    const train = (data: string, ...more: string[]) =>
      cli(["train", model, "--data", data, "--out", `${folder}/out`, ...CPU, ...more]);
    await Deno.writeTextFile(`${folder}/empty.jsonl`, "\n");
    await Deno.writeTextFile(`${folder}/bad.jsonl`, '{"text":"a"}\n{"text":\n');
    const good = await jsonLines(folder, "good.jsonl", [{ text: "abc" }]);
    const cases: readonly (readonly [Promise<{ code: number; err: string }>, RegExp])[] = [
      [train(`${folder}/empty.jsonl`), /^TrainingError \[DATASET_EMPTY\]: .*empty\.jsonl.*\n$/],
      [train(`${folder}/bad.jsonl`), /^FileError \[DATA_LINE\]: Line 2 of .*bad\.jsonl.*\n$/],
      [train(`${folder}/none.jsonl`), /^FileError \[FILE_NOT_FOUND\]: .*\n$/],
      [
        train(good, "--target-modules", "q_prj"),
        /^TargetError \[TARGET_NOT_FOUND\]: .*q_proj.*\n$/,
      ],
      [train(good, "--init-lora-weights", "ones"), /^ConfigError \[\w+\]: .*\n$/],
      [train(good, "--eval-data", `${folder}/empty.jsonl`), /^TrainingError \[DATASET_EMPTY\]/],
      [train(good, "--eval-steps", "2"), /ValueError \[TRAIN_OPTIONS\]: .*\n$/],
      [train(good, "--out", good), /^FileError \[NOT_A_FOLDER\]: .*\n$/],
      [train(good, "--resume", good), /FileError \[FILE_UNREADABLE\]: .*\n$/],
      [train(good, "--resume"), /TrainingError \[RESUME_MISSING\]: .*\n$/],
    ];
    for (const [run, message] of cases) {
      const { code, err } = await run;
      assertEquals(code, 1);
      assertMatch(err, message);
    }
    assertEquals(namesIn(folder).includes("out"), false);
  });
});

Deno.test("an adapter that resizes its base is said to", async () => {
  await inFolder(async (folder) => {
    const path = await tinyModel(folder);
    const base = await loadModel(path, { device: "cpu" });
    using _device = base.device;
    const grown = await resizeTokenEmbeddings(base, 261);
    const config = loraConfig({ r: 2, targetModules: ["q_proj"], modulesToSave: ["embed_tokens"] });
    await savePretrained(getPeftModel(grown, config), `${folder}/adapter`);
    const { code, err } = await cli([
      ...["generate", path, "--adapter", `${folder}/adapter`, "--prompt", "a", ...CPU],
      ...["--max-new-tokens", "2"],
    ]);
    assertEquals(code, 0, err);
    assertStringIncludes(err, "was trained with 261 tokens: the base, which has 259, is resized.");
  });
});
