import { assert, assertEquals, assertRejects } from "@std/assert";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { forward } from "../../lib/adapters/forward.ts";
import { ShapeError, ValueError } from "../../lib/errors.ts";
import { answer } from "../../lib/inference/answer.ts";
import { classify } from "../../lib/inference/classify.ts";
import { tag } from "../../lib/inference/tag.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import { tokenizerOf } from "../../lib/io/model-tokenizer.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import type { TaskType } from "../../lib/model/task-type.ts";
import { padExamples } from "../../lib/training/data.ts";
import { evaluate } from "../../lib/training/evaluate.ts";
import { tokenizeData } from "../../lib/training/tokenize.ts";
import { train } from "../../lib/training/train.ts";
import { golden } from "../adapters/bases.ts";
import { testDevice } from "../devices.ts";
import { inFolder } from "../io/folder.ts";

const T5 = `${golden}inference/t5_embed/`, TEXTS = ["Hello there", "a b c", "The answer is 42."];

/** The T5 of a folder whose tokenizer ends texts with `</s>`, for a task of its own. */
async function withT5<T extends TaskType>(
  taskType: T,
  use: (model: ModelGraph<T>, folder: string) => Promise<void>,
): Promise<void> {
  const device = await testDevice("cpu");
  await inFolder(async (folder) => {
    for await (const { name, isFile } of Deno.readDir(T5)) {
      if (isFile) await Deno.copyFile(T5 + name, `${folder}/${name}`);
    }
    const config = JSON.parse(await Deno.readTextFile(`${T5}config.json`));
    await Deno.writeTextFile(
      `${folder}/config.json`,
      JSON.stringify({ ...config, eos_token_id: 2 }),
    );
    await use(await loadModel(folder, { device, taskType, numLabels: 2 }), folder);
  });
}

/** Learns from rows of text, and gives what an evaluation then measures. */
async function learned(
  base: ModelGraph,
  rows: readonly Record<string, unknown>[],
  modulesToSave?: string[],
) {
  const tokenizer = await tokenizerOf(base);
  const { examples } = tokenizeData(rows, { tokenizer, model: base });
  const data = padExamples(examples, { batchSize: 3 });
  const adapted = getPeftModel(base, loraConfig({ taskType: base.taskType, modulesToSave }));
  const { model } = await train(adapted, data, { learningRate: 2e-2, steps: 30 });
  const before = await evaluate(adapted, data), after = await evaluate(model, data);
  assert(after.loss < before.loss / 2, `${after.loss} after ${before.loss}`);
  return model;
}

Deno.test("a T5 classifies texts with a new head, where each has its end token", async () => {
  await withT5("SEQ_CLS", async (base, folder) => {
    const own = ["dense", "out_proj"].flatMap((layer) =>
      ["weight", "bias"].map((leaf) => `classification_head.${layer}.${leaf}`)
    );
    assertEquals(base.initialized, own);
    const rows = TEXTS.map((text, i) => ({ text, label: `LABEL_${i % 2}` }));
    // PEFT saves heads of other names; this one is asked for.
    const model = await learned(base, rows, ["classification_head"]);
    const found = await classify(model, TEXTS, { topK: 1 });
    assertEquals(found.map(([{ label }]) => label), rows.map(({ label }) => label));
    for (const [i, text] of TEXTS.entries()) {
      const [{ score }] = await classify(model, text);
      assert(Math.abs(score - found[i][0].score) < 1e-5, text);
    }
    const refused: readonly [object, typeof ValueError | typeof ShapeError, string][] = [
      [{ inputIds: [[5, 2], [5, 6]] }, ValueError, "Row 1 has no token 2"],
      [{ inputIds: [[5, 2]], decoderInputIds: [[4]] }, ShapeError, "a token for each of the 2"],
      [{ inputIds: [[5, 2]], decoderAttentionMask: [[1]] }, ShapeError, "decoderInputIds"],
      [{ inputIds: [[5, 2]], decoderInputIds: [[4, 99]] }, ValueError, "The token id 99"],
    ];
    for (const [batch, error, part] of refused) {
      await assertRejects(() => forward(base, batch), error, part);
    }
    await saveModel(base, folder);
    assertEquals((await loadModel(folder, { device: base.device })).initialized, []);
  });
});

Deno.test("a T5 that tags has no decoder, and another task's T5 gets one anew", async () => {
  await withT5("TOKEN_CLS", async (base, folder) => {
    assertEquals(base.initialized, ["classifier.weight", "classifier.bias"]);
    assert(![...base.shapes.keys()].some((name) => name.includes("decoder")));
    const words = { tokens: ["Hello", "there"], ner_tags: ["LABEL_1", "LABEL_0"] };
    const model = await learned(base, [words]);
    const [{ entity, word }] = await tag(model, "Hello there", { ignoreLabels: ["LABEL_0"] });
    assertEquals([entity, "Hello".startsWith(word)], ["LABEL_1", true]);
    await saveModel(base, folder);
    const other = await loadModel(folder, { device: base.device, taskType: "SEQ_2_SEQ_LM" });
    assert(other.initialized.every((name) => name.startsWith("decoder.")));
    assert(other.parameters.has("encoder.block.0.layer.0.SelfAttention.q.weight"));
  });
});

Deno.test("a T5 finds answers", async () => {
  await withT5("QUESTION_ANS", async (base) => {
    const context = "a b c", answers = { text: ["b"], answer_start: [2] };
    const model = await learned(base, [{ question: "which", context, answers }]);
    const [{ answer: found, start }] = await answer(model, { question: "which", context });
    assertEquals([found.trim(), context.slice(start).trimStart()[0]], ["b", "b"]);
  });
});
