/**
 * `train` for each task, from files of each kind.
 */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "node:path";
import type { JsonObject } from "../../lib/io/json.ts";
import { imageProcessorOf } from "../../lib/io/model-tokenizer.ts";
import { createModel, loadModel, type ModelDeviceOptions } from "../../lib/io/load-model.ts";
import { saveModel } from "../../lib/io/save-model.ts";
import { createTokenizer } from "../../lib/io/tokenizer.ts";
import type { TaskType } from "../../lib/model/task-type.ts";
import { loadImageProcessor } from "../../lib/io/image-processor.ts";
import { padExamples } from "../../lib/training/data.ts";
import { evaluate } from "../../lib/training/evaluate.ts";
import type { DataRow } from "../../lib/training/read-table.ts";
import { tokenizeData } from "../../lib/training/tokenize.ts";
import { inFolder, namesIn } from "../io/folder.ts";
import encoded from "../io/encode-inputs.golden.json" with { type: "json" };
import tokenizers from "../io/tokenizers.golden.json" with { type: "json" };
import images from "../io/images.golden.json" with { type: "json" };
import rows from "../training/task-rows.golden.json" with { type: "json" };
import { cli } from "./run.ts";

const BERT = {
  model_type: "bert",
  architectures: ["BertModel"],
  vocab_size: 512,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  initializer_range: 0.3,
};
const T5 = {
  model_type: "t5",
  architectures: ["T5ForConditionalGeneration"],
  vocab_size: 512,
  d_model: 16,
  d_kv: 8,
  d_ff: 24,
  num_layers: 1,
  num_heads: 2,
  decoder_start_token_id: 0,
  pad_token_id: 0,
};
const PARQUET = new URL("../training/data/", import.meta.url).pathname;

/** Saves a tiny model with BERT's way of encoding, and gives its path. */
async function model(
  folder: string,
  config: JsonObject & { readonly model_type: string } = BERT,
  options: ModelDeviceOptions = { taskType: "FEATURE_EXTRACTION" },
): Promise<string> {
  const made = await createModel(config, { ...options, device: "cpu", seed: 1 });
  using _device = made.device;
  const { kind, post_processor } = encoded.families.bert;
  const kinds: Readonly<Record<string, { readonly tokenizer: unknown }>> = tokenizers.kinds;
  const tokens = { bos_token: "<s>", eos_token: "</s>", pad_token: "</s>", cls_token: "<s>" };
  const tokenizer = createTokenizer({
    tokenizer: { ...kinds[kind].tokenizer as JsonObject, post_processor },
    config: tokens,
  });
  const path = join(folder, `model-${namesIn(folder).length}`);
  await saveModel(made, path, { tokenizer });
  return path;
}

function separated(rows: readonly DataRow[], by: string): string {
  const cell = (value: unknown) => {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    return `"${text.replaceAll('"', '""')}"`;
  };
  const names = Object.keys(rows[0]);
  return [names, ...rows.map((row) => names.map((name) => row[name]))]
    .map((cells) => cells.map(cell).join(by)).join("\n");
}

const WRITERS: Readonly<Record<string, (rows: readonly DataRow[]) => string>> = {
  csv: (rows) => separated(rows, ","),
  tsv: (rows) => separated(rows, "\t"),
  json: (rows) => JSON.stringify(rows),
  jsonl: (rows) => rows.map((row) => JSON.stringify(row)).join("\n"),
};

async function file(folder: string, name: string, rows: readonly DataRow[]): Promise<string> {
  const path = join(folder, name);
  await Deno.writeTextFile(path, WRITERS[name.split(".").at(-1)!](rows));
  return path;
}

/** Mails of which those with "question" in them are spam. */
const MAILS = Array.from({ length: 24 }, (_, i) => ({
  text: i % 3 ? `hello there, how are you today ${i}` : `the question, the question ${i}`,
  label: i % 3 ? "ham" : "spam",
}));

const TASKS: readonly (readonly [TaskType, keyof typeof rows.rows, readonly string[]])[] = [
  ["SEQ_CLS", "pairs", ["accuracy", "f1", "matthews"]],
  ["TOKEN_CLS", "words", ["accuracy", "precision", "recall", "f1"]],
  ["QUESTION_ANS", "questions", ["exactMatch", "answeredF1", "unanswerable"]],
  ["SEQ_2_SEQ_LM", "texts", ["eval loss", "rouge1", "rougeLsum", "bleu"]],
];

for (const [task, what, metrics] of TASKS) {
  Deno.test(`train ${task} from files of every kind, to the same losses`, async () => {
    await inFolder(async (folder) => {
      const base = task === "SEQ_2_SEQ_LM" ? await model(folder, T5, {}) : await model(folder);
      const plan = await cli(["plan", base, "--task", task, "--json", "--max-length", "16"]);
      assert(JSON.parse(plan.out).step.flops > 1e4, plan.err);
      const found = new Map<string, string>();
      const own = rows.rows[what] as readonly DataRow[];
      const named = (tags: unknown) => (tags as number[]).map((tag) => rows.tags[tag]);
      const data = what === "words"
        ? own.map((row) => ({ ...row, ner_tags: named(row.ner_tags) }))
        : what === "pairs"
        ? own.map((row) => ({ ...row, label: ["no", "yes"][row.label as number] }))
        : own;
      for (const ending of [...Object.keys(WRITERS), "parquet"]) {
        const path = ending === "parquet"
          ? `${PARQUET}${what}.parquet`
          : await file(folder, `data.${ending}`, data);
        const run = await cli([
          ...[
            "train",
            base,
            "--task",
            task,
            "--data",
            path,
            "--eval-data",
            path,
            "--device",
            "cpu",
          ],
          ...["--max-steps", "2", "--max-length", "40", "--stride", "5", "--no-shuffle"],
          ...["--out", `${folder}/${ending}`, "--target-modules", "all-linear"],
          ...what === "words" ? ["--label-names", rows.tags.join()] : [],
          ...what === "texts" ? ["--max-target-length", "12", "--num-beams", "2"] : [],
        ]);
        assertEquals(run.code, 0, run.err);
        for (const metric of metrics) {
          assertMatch(run.out, new RegExp(`, ${metric} -?\\d+\\.\\d{4}`));
        }
        found.set(run.out.slice(run.out.indexOf("loss")), ending);
      }
      assertEquals(found.size, 1, [...found].join("\n"));
      const config = JSON.parse(
        await Deno.readTextFile(`${folder}/csv/adapter_config.json`),
      );
      assertEquals(config.task_type, task);
    });
  });
}

Deno.test("train: classes of mails, with names, metrics, the best by F1, and a merged model", async () => {
  await inFolder(async (folder) => {
    const base = await model(folder), out = join(folder, "out");
    const data = await file(folder, "mails.csv", MAILS);
    const args = [
      ...["train", base, "--task", "SEQ_CLS", "--data", data, "--eval-split", "0.25", "--out", out],
      ...["--device", "cpu", "--num-train-epochs", "6", "--eval-steps", "3", "--show-example", "1"],
      ...["--learning-rate", "2e-2", "--metric-for-best-model", "f1", "--load-best-model-at-end"],
    ];
    const run = await cli(args);
    assertEquals(run.code, 0, run.err);
    assertMatch(run.out, /^example 1: \d+ tokens\n.*question.* → spam\n/);
    assertMatch(run.err, /eval loss [\d.]+ {2}accuracy [\d.]+ {2}f1 [\d.]+ {2}f1Macro/);
    assertMatch(run.out, /, accuracy 1\.0000, f1 1\.0000, .*matthews 1\.0000\n$/);
    const history = (await Deno.readTextFile(`${out}/history.jsonl`)).trim().split("\n")
      .map((line) => JSON.parse(line));
    const best = history.find(({ evalMetrics }) => evalMetrics?.f1 === 1);
    assertStringIncludes(run.out, `adapter after ${best.step} steps`);
    const config = JSON.parse(await Deno.readTextFile(`${out}/adapter_config.json`));
    assertEquals([config.task_type, config.modules_to_save], ["SEQ_CLS", ["classifier", "score"]]);
    assertStringIncludes(await Deno.readTextFile(`${out}/README.md`), 'id2label:\n  "0": ham\n');
    // What was trained goes on, and merges into a model that knows its classes.
    const more = await cli([
      ...["train", base, "--adapter", out, "--data", data, "--out", `${folder}/more`],
      ...["--device", "cpu", "--max-steps", "1", "--eval-data", data],
    ]);
    assertEquals(more.code, 0, more.err);
    const said = await cli([
      ...["classify", base, "--adapter", out, "--text", MAILS[0].text, MAILS[1].text],
      ...["--device", "cpu"],
    ]);
    assertMatch(said.out, /^spam\t[01]\.\d+\nham\t/, said.err);
    const merged = await cli(["merge", base, "--adapter", out, "--out", `${folder}/merged`]);
    assertEquals(merged.code, 0, merged.err);
    const whole = await loadModel(`${folder}/merged`, { device: "cpu" });
    using _device = whole.device;
    assertEquals([whole.taskType, whole.config.id2label], ["SEQ_CLS", { 0: "ham", 1: "spam" }]);
    // A model with a head keeps its classes, in their order.
    const head = await cli([
      ...["train", `${folder}/merged`, "--data", data, "--eval-data", data, "--device", "cpu"],
      ...["--out", `${folder}/head`, "--max-steps", "1", "--learning-rate", "1e-9"],
    ]);
    assertEquals(head.code, 0, head.err);
    assertMatch(head.out, /accuracy (1\.0000|0\.9\d+)/);
  });
});

Deno.test("train: several labels, and numbers, within a model's last position", async () => {
  await inFolder(async (folder) => {
    const base = await model(folder, { ...BERT, max_position_embeddings: 20 });
    const several = MAILS.map(({ text, label }, i) => ({
      text,
      labels: [label, ...i % 2 ? ["odd"] : []],
    }));
    const numbers = MAILS.map(({ text }, i) => ({ text, label: String(i / 8) }));
    for (
      const [name, rows, metrics] of [
        ["several.jsonl", several, /accuracy [\d.]+, f1Micro [\d.]+, f1Macro/],
        ["numbers.tsv", numbers, /mse [\d.]+, mae [\d.]+, pearson -?[\d.]+, spearman/],
      ] as const
    ) {
      const run = await cli([
        ...["train", base, "--task", "SEQ_CLS", "--data", await file(folder, name, rows)],
        ...["--eval-split", "0.5", "--device", "cpu", "--out", join(folder, `out-${name}`)],
      ]);
      assertEquals(run.code, 0, run.err);
      assertMatch(run.out, metrics);
    }
  });
});

Deno.test("train: embeddings of texts that belong together, with and without negatives", async () => {
  await inFolder(async (folder) => {
    const base = await model(folder);
    const pairs = MAILS.slice(0, 9).map(({ text }, i) => ({
      anchor: text,
      positive: `${text} too`,
      negative: MAILS[i + 9].text,
    }));
    assertEquals((await cli(["plan", base, "--max-length", "16"])).code, 0);
    const losses = new Map<string, string>();
    for (
      const [name, rows] of [
        ["triplets.jsonl", pairs],
        ["pairs.csv", pairs.map(({ anchor: query, positive: passage }) => ({ query, passage }))],
      ] as const
    ) {
      const data = await file(folder, name, rows);
      const run = await cli([
        ...[
          "train",
          base,
          "--data",
          data,
          "--eval-data",
          data,
          "--out",
          join(folder, `out-${name}`),
        ],
        ...["--device", "cpu", "--num-train-epochs", "3", "--show-example", "1"],
      ]);
      assertEquals(run.code, 0, run.err);
      assertMatch(run.out, /, eval loss [\d.]+, accuracy [\d.]+, mrr [\d.]+\n$/);
      assertEquals(run.out.split("\n\n")[0].split("\n").length, name === "pairs.csv" ? 3 : 4);
      losses.set(name, run.out.split("\n").at(-2)!);
    }
    assertEquals(
      new Set([...losses.values()].map((line) => line.slice(line.indexOf("loss")))).size,
      2,
    );
  });
});

Deno.test("train: several seeds, of which the best is kept", async () => {
  await inFolder(async (folder) => {
    const base = await model(folder), out = join(folder, "out");
    const data = await file(folder, "mails.csv", MAILS);
    const args = [
      ...["train", base, "--task", "SEQ_CLS", "--data", data, "--eval-split", "0.25", "--out", out],
      ...["--device", "cpu", "--max-steps", "4", "--learning-rate", "1e-2"],
    ];
    const run = await cli([...args, "--seeds", "5,1,3", "--metric-for-best-model", "accuracy"]);
    assertEquals(run.code, 0, run.err);
    const [head, ...lines] = run.out.split("\n");
    assertMatch(head, /^seed +eval loss +accuracy +f1 /);
    assertEquals(lines.slice(0, 3).map((line) => line.split(/\s+/)[0]), ["5", "1", "3"]);
    assertMatch(lines[3], /^mean ± sd +[\d.]+ ± [\d.]+ /);
    const accuracies = lines.slice(0, 3).map((line) => Number(line.split(/\s+/)[2]));
    const best = lines.slice(0, 3).filter((line) => line.endsWith("best"));
    assertEquals(best.map((line) => Number(line.split(/\s+/)[2])), [Math.max(...accuracies)]);
    const { seed } = JSON.parse(await Deno.readTextFile(`${out}/training_options.json`));
    assert(best[0].startsWith(`${seed} `));
    const none = await cli([...args, "--overwrite", "--seeds", "2", "--seed", "7"]);
    assertEquals(none.out.split("\n").slice(1, 3).map((line) => line.split(/\s+/)[0]), ["7", "8"]);
    const alone = await cli([
      ...["train", base, "--task", "SEQ_CLS", "--data", data, "--device", "cpu", "--seeds", "2"],
      ...["--max-steps", "1", "--out", `${folder}/alone`],
    ]);
    assertEquals(alone.code, 1);
    assertStringIncludes(alone.err, "compared by their evaluations");
  });
});

Deno.test("train: classes of images, by paths beside the data or by contents", async () => {
  await inFolder(async (folder) => {
    const made = await createModel({
      ...{ model_type: "vit", architectures: ["ViTForImageClassification"], image_size: 8 },
      ...{ patch_size: 4, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1 },
      ...{ num_attention_heads: 2, initializer_range: 0.3 },
    }, { device: "cpu", seed: 1, taskType: "FEATURE_EXTRACTION" });
    using _device = made.device;
    const base = join(folder, "vit"), out = join(folder, "out");
    await saveModel(made, base);
    const names = ["a.jpg", "gray.jpg", "full.jpg", "gray.png"];
    const files = names.map((name) => images.decoded.find((one) => one.name === name)!);
    const data = files.map(({ name, file }) => ({
      file_name: `pictures/${name}`,
      label: name.startsWith("gray") ? "cat" : "dog",
      contents: Uint8Array.from(atob(file), (c) => c.charCodeAt(0)),
    }));
    await Deno.mkdir(join(folder, "pictures"));
    for (const { file_name, contents } of data) {
      await Deno.writeFile(join(folder, file_name), contents);
    }
    const rows = data.map(({ file_name, label }) => ({ file_name, label }));
    const csv = await file(folder, "metadata.csv", rows);
    const args = [
      ...["train", base, "--task", "SEQ_CLS", "--data", csv, "--eval-data", csv, "--out", out],
      ...["--device", "cpu", "--num-train-epochs", "40", "--learning-rate", "2e-2"],
      ...["--target-modules", "all-linear", "--show-example", "1"],
    ];
    const missing = await cli(args);
    assertEquals(missing.code, 1);
    assertStringIncludes(missing.err, "PROCESSOR_MISSING");
    await Deno.writeTextFile(
      join(base, "preprocessor_config.json"),
      JSON.stringify({ image_processor_type: "ViTImageProcessor", size: 8 }),
    );
    const run = await cli(args);
    assertEquals(run.code, 0, run.err);
    assertMatch(run.out, /^example 1: .*pictures\/.* → dog\n/);
    assertMatch(run.out, /, accuracy 1\.0000, f1 1\.0000/);
    const plan = await cli([
      "plan",
      base,
      "--task",
      "SEQ_CLS",
      "--json",
      "--target-modules",
      "q_proj",
    ]);
    assertEquals(plan.code, 0, plan.err);
    assert(JSON.parse(plan.out).step.flops > 1e4, plan.err);
    const said = await cli([
      ...["classify", base, "--adapter", out, "--device", "cpu", "--image"],
      ...rows.slice(0, 2).map(({ file_name }) => join(folder, file_name)),
    ]);
    assertMatch(said.out, /^dog\t[\d.]+\ncat\t[\d.]+\n$/, said.err);
    await Deno.remove(join(folder, "pictures"), { recursive: true });
    const gone = await cli([...args, "--overwrite"]);
    assertStringIncludes(gone.err, "FILE_NOT_FOUND");
    // As Parquet files hold them.
    const whole = await loadModel(base, { device: made.device, taskType: "SEQ_CLS" });
    const byFile = await loadModel(join(base, "model.safetensors"), { device: made.device });
    const own = await Promise.all([whole, byFile].map(imageProcessorOf));
    assertEquals(own.map(({ size }) => size), [{ height: 8, width: 8 }, { height: 8, width: 8 }]);
    const { examples } = tokenizeData(
      data.map(({ label, contents }) => ({
        image: { bytes: contents },
        label: Number(label === "cat"),
      })),
      { model: whole },
    );
    const [batch] = padExamples(examples, {
      batchSize: 4,
      processor: await loadImageProcessor(base),
    });
    assertEquals([batch.pixelValues!.shape, batch.labels], [[4, 3, 8, 8], [0, 1, 0, 1]]);
    assertEquals((await evaluate(whole, [batch])).targets, 4);
  });
});

Deno.test("the commands of the README run", async () => {
  await inFolder(async (folder) => {
    const own = rows.rows;
    const texts = own.texts.map(({ document, summary }) => ({ source: document, target: summary }));
    const qas = own.questions.slice(0, 2).map(({ id, question, answers }) => ({
      ...{ id, question },
      answers: answers.text.map((text, i) => ({ text, answer_start: answers.answer_start[i] })),
    }));
    const paragraphs = [{ context: own.questions[0].context, qas }];
    const paths: Readonly<Record<string, string>> = {
      "./bert": await model(folder),
      "./t5": await model(folder, T5, {}),
      "mails.csv": await file(folder, "mails.csv", MAILS),
      "words.parquet": `${PARQUET}words.parquet`,
      "squad.json": join(folder, "squad.json"),
      "texts.jsonl": await file(folder, "texts.jsonl", texts),
      "pairs.tsv": await file(
        folder,
        "pairs.tsv",
        MAILS.map(({ text }) => ({ query: text, hit: `${text} too` })),
      ),
    };
    await Deno.writeTextFile(paths["squad.json"], JSON.stringify({ data: [{ paragraphs }] }));
    const readme = await Deno.readTextFile(new URL("../../README.md", import.meta.url));
    const [, section] = readme.split("## Data of each task");
    const commands = section.split("## What there is")[0].match(/(?<=peft\/cli ).*/g)!;
    assertEquals(commands.length, 6);
    for (const command of commands) {
      const args = Array.from(
        command.matchAll(/"([^"]*)"|\S+/g),
        ([whole, quoted]) =>
          quoted ?? paths[whole] ??
            (/^[a-z]+$/.test(whole) && !/^(train|classify|f1|query|hit)$/.test(whole)
              ? join(folder, whole)
              : whole),
      );
      const run = await cli([...args, "--device", "cpu"]);
      assertEquals(run.code, 0, run.err);
      if (args[0] === "classify") assertMatch(run.out, /^(ham|spam)\t0\.\d+\n$/);
    }
  });
});

Deno.test("train: data that do not fit the task end in one line", async () => {
  await inFolder(async (folder) => {
    const base = await model(folder);
    const headed = await model(folder, BERT, { taskType: "SEQ_CLS", labelNames: ["ham", "spam"] });
    const mails = await file(folder, "mails.csv", MAILS);
    const train =
      (model: string, rows: readonly DataRow[] | string, ...more: string[]) =>
      async (name: string) => {
        const path = typeof rows === "string" ? rows : await file(folder, `${name}.csv`, rows);
        return await cli([
          ...["train", model, "--data", path, "--out", `${folder}/out`, "--device", "cpu", ...more],
        ]);
      };
    const to = ["--task", "SEQ_CLS"];
    const cases: readonly (readonly [ReturnType<typeof train>, RegExp])[] = [
      [
        train(headed, [...MAILS, { text: "x", label: "2" }]),
        /^ValueError \[DATA_EXAMPLE\]: Row 25 of .*0\.csv has the label "2", and the model has 2 classes, from 0 to 1\.\n$/,
      ],
      [
        train(headed, [...MAILS, { text: "x", label: "spma" }]),
        /Row 25 of .* has the label "spma" \(nearest: spam, ham\), and the model has 2 classes, ham, spam\.\n$/,
      ],
      [
        train(base, mails, ...to, "--text-column", "body"),
        /\[DATA_COLUMNS\]: There is no column "body"/,
      ],
      [train(base, [{ a: 1 }], ...to), /\[DATA_COLUMNS\]: .* The data has a\. Usual are text and/],
      [train(base, mails, ...to, "--eval-split", "0.99"), /\[DATASET_EMPTY\]: --eval-split 0.99/],
      [train(headed, mails, ...to, "--label-names", "a,b,c"), /^CheckpointError.*classifier/],
      [train(base, mails, ...to, "--packing"), /\[DATA_OPTION\]: Only examples whose labels/],
      [
        train(base, mails, ...to, "--eval-split", "0.2", "--metric-for-best-model", "f2"),
        /metricForBest is "f2" \(nearest: f1.*\), which is not measured; loss, accuracy, f1,/,
      ],
      [train(base, mails, "--task", "CAUSAL_LM"), /\[TASK_UNSUPPORTED\]/],
      [
        train(base, mails),
        /\[DATA_COLUMNS\]: It cannot be told which columns hold the text and the/,
      ],
    ];
    for (const [i, [run, message]] of cases.entries()) {
      const { code, err } = await run(String(i));
      assertEquals(code, 1, err);
      assertMatch(err.split("\n").slice(-2).join("\n"), message);
    }
    assertEquals(namesIn(folder).includes("out"), false);
  });
});
