import { assert, assertEquals, assertRejects } from "@std/assert";
import { loadAdapter } from "../../lib/adapters/checkpoint/load.ts";
import { blenderbot } from "../../lib/architectures/blenderbot.ts";
import { FileError, UnsupportedError, ValueError } from "../../lib/errors.ts";
import { answer } from "../../lib/inference/answer.ts";
import { classify } from "../../lib/inference/classify.ts";
import { embed } from "../../lib/inference/embed.ts";
import { tag } from "../../lib/inference/tag.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { golden } from "../adapters/bases.ts";
import { testDevice } from "../devices.ts";
import { inFolder } from "../io/folder.ts";

const FOLDER = `${golden}inference/`;
const TEXTS = [
  "Hello there",
  "The answer is 42. Let me think",
  "a",
  "don't worry, we'll see",
  "b c",
];

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, sanitizeResources: false, fn });
}

const load = async (name: string) =>
  await loadModel(FOLDER + name, { device: await testDevice("cpu") });

function near(a: Iterable<number>, b: Iterable<number>): boolean {
  const [x, y] = [[...a], [...b]];
  return x.length === y.length && x.every((value, i) => Math.abs(value - y[i]) < 1e-5);
}

test("results come in the order of the texts, whatever runs together", async () => {
  const model = await load("bert_embed");
  const [all, pairs] = [await embed(model, TEXTS), await embed(model, TEXTS, { batchSize: 2 })];
  for (const [i, text] of TEXTS.entries()) {
    const alone = await embed(model, text);
    assert(near(alone, all[i]) && near(alone, pairs[i]), text);
  }
  assertEquals(await embed(model, []), []);
});

test("each text gets its own adapter", async () => {
  const base = await load("bert_classes");
  const model = await loadAdapter(base, `${FOLDER}bert_classes/adapter`, { adapterName: "own" });
  const adapterNames = TEXTS.map((_, i) => i % 2 ? "own" : "__base__");
  const mixed = await classify(model, TEXTS, { adapterNames, batchSize: 2 });
  const [own, plain] = [await classify(model, TEXTS), await classify(base, TEXTS)];
  mixed.forEach((labels, i) => {
    const want = (i % 2 ? own : plain)[i];
    assertEquals(labels.map(({ label }) => label), want.map(({ label }) => label));
    assert(near(labels.map(({ score }) => score), want.map(({ score }) => score)), TEXTS[i]);
  });
  assert(own.some((labels, i) => labels[0].score !== plain[i][0].score));
  await assertRejects(
    () => classify(model, TEXTS, { adapterNames: ["own"] }),
    ValueError,
    "5 texts",
  );
});

test("labels can be fewer, and scores as the caller wants them", async () => {
  const model = await load("bert_classes");
  const all = await classify(model, TEXTS[0]);
  assert(near([all.reduce((sum, { score }) => sum + score, 0)], [1]));
  assertEquals(await classify(model, TEXTS[0], { topK: 1 }), all.slice(0, 1));
  const threshold = all[1].score;
  assertEquals(await classify(model, TEXTS[0], { threshold }), all.slice(0, 2));
  const plain = await classify(model, TEXTS[0], { functionToApply: "none" });
  assertEquals(plain.map(({ label }) => label), all.map(({ label }) => label));
  assert(near([Math.exp(plain[0].score - plain[1].score)], [all[0].score / all[1].score]));
});

test("what cannot be read is refused", async () => {
  const classes = await load("bert_classes"), tags = await load("bert_tags");
  const find = await load("bert_answers"), long = "Hello there, how are you? ".repeat(40);
  const context = "a";
  const refused: readonly (readonly [() => Promise<unknown>, string])[] = [
    [() => classify(tags, "a"), 'Load it with { taskType: "SEQ_CLS" }'],
    [() => answer(classes, { question: "a", context }), "answer needs a model for QUESTION_ANS"],
  ];
  for (const [run, part] of refused) await assertRejects(run, UnsupportedError, part);
  const t5 = await load("t5_embed"), other = { ...t5, architecture: blenderbot };
  await assertRejects(() => classify(t5, "a"), UnsupportedError, "Load it with");
  await assertRejects(() => classify(other, "a"), UnsupportedError, "has models for SEQ_2_SEQ_LM");
  const wrong: readonly (readonly [() => Promise<unknown>, string])[] = [
    [() => classify(classes, ["a", long]), "Give maxLength: 128"],
    [() => tag(tags, "a", { stride: 3 }), 'aggregation is "none"'],
    [() => answer(find, { question: "", context }), "found"],
    [() => answer(find, { question: long, context: long }), "no room"],
    [() => classify(classes, 5 as never), "needs a text"],
    [() => classify(classes, "a", { topk: 1 } as never), "topK"],
    [() => embed(classes, "a", { pooling: "sum" } as never), "one of mean, cls, last, max"],
  ];
  for (const [run, part] of wrong) await assertRejects(run, ValueError, part);
  const signal = AbortSignal.abort(new Error("enough"));
  await assertRejects(() => classify(classes, "a", { signal }), Error, "enough");
});

test("what a folder of sentence-transformers asks for is done or refused", async () => {
  await inFolder(async (folder) => {
    for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
      await Deno.copyFile(`${FOLDER}bert_embed/${name}`, `${folder}/${name}`);
    }
    const config = await Deno.readTextFile(`${FOLDER}bert_embed/tokenizer_config.json`);
    await Deno.writeTextFile(`${folder}/tokenizer_config.json`, config);
    const model = await loadModel(folder, { device: await testDevice("cpu") });
    const write = (name: string, value: unknown) =>
      Deno.writeTextFile(`${folder}/${name}`, JSON.stringify(value));
    const ask = async (pooling: object, more: readonly string[] = []) => {
      const types = ["a.Transformer", "a.Pooling", ...more];
      await Deno.mkdir(`${folder}/1_Pooling`, { recursive: true });
      await write("1_Pooling/config.json", pooling);
      await write("modules.json", types.map((type, i) => ({ type, path: i ? "1_Pooling" : "" })));
      return await embed(model, "Hello THERE");
    };
    const last = await embed(model, "Hello THERE", { pooling: "last" });
    assert(near(await ask({ pooling_mode: "lasttoken" }), last));
    await write("sentence_bert_config.json", { max_seq_length: 3, do_lower_case: true });
    await write("config_sentence_transformers.json", {
      prompts: { query: "to you " },
      default_prompt_name: "query",
    });
    const cut = await embed(model, "to you hello there", { pooling: "cls", maxLength: 3 });
    assert(near(await ask({ pooling_mode_cls_token: true }), cut));
    const refused: readonly (readonly [() => Promise<unknown>, string])[] = [
      [() => ask({ pooling_mode: ["mean", "cls"] }), "mean with cls"],
      [() => ask({ include_prompt: false }), "without the prompt"],
      [() => ask({}, ["b.LSTM"]), "b.LSTM"],
    ];
    for (const [run, part] of refused) await assertRejects(run, UnsupportedError, part);
    await write("modules.json", [{ type: "a.Pooling", path: "../elsewhere" }]);
    await assertRejects(() => embed(model, "a"), FileError, "in its folder");
  });
});
