/**
 * Rows of tasks as tokens and labels, against transformers' tokenizers: see task-rows.golden.py.
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FileError, GraftError, ValueError } from "../../lib/errors.ts";
import type { JsonObject } from "../../lib/io/json.ts";
import { createModel, type ModelDeviceOptions } from "../../lib/io/load-model.ts";
import { createTokenizer } from "../../lib/io/tokenizer.ts";
import type { TaskType } from "../../lib/model/task-type.ts";
import { padExamples } from "../../lib/training/data.ts";
import { labelsIn } from "../../lib/training/labels.ts";
import { type DataRow, readTable } from "../../lib/training/read-table.ts";
import type { TokenizeOptions } from "../../lib/training/row-rule.ts";
import { tokenizeData } from "../../lib/training/tokenize.ts";
import { inFolder } from "../io/folder.ts";
import tokenizers from "../io/tokenizers.golden.json" with { type: "json" };
import golden from "./task-rows.golden.json" with { type: "json" };

const KINDS: Readonly<Record<string, { readonly tokenizer: unknown }>> = tokenizers.kinds;

const config = {
  model_type: "bert",
  vocab_size: 512,
  hidden_size: 8,
  intermediate_size: 8,
  num_hidden_layers: 1,
  num_attention_heads: 2,
};
const T5 = {
  model_type: "t5",
  vocab_size: 512,
  d_model: 8,
  d_kv: 4,
  d_ff: 8,
  num_layers: 1,
  num_heads: 2,
};

/** A model for a task, as far as rows look at it. */
function modelFor(taskType: TaskType, options: ModelDeviceOptions = {}) {
  const own = taskType === "SEQ_2_SEQ_LM" ? T5 : config;
  return createModel(own, { ...options, device: "cpu", taskType });
}

function tokenizerOf({ kind, post_processor }: { kind: string; post_processor: unknown }) {
  const tokenizer = KINDS[kind].tokenizer as JsonObject;
  const tokens = { bos_token: "<s>", eos_token: "</s>", pad_token: "</s>", cls_token: "<s>" };
  return createTokenizer({ tokenizer: { ...tokenizer, post_processor }, config: tokens });
}

const models = {
  words: await modelFor("TOKEN_CLS", { labelNames: golden.tags }),
  pairs: await modelFor("SEQ_CLS", { labelNames: ["no", "yes"] }),
  texts: await modelFor("SEQ_2_SEQ_LM"),
  questions: await modelFor("QUESTION_ANS"),
};
const folder = new URL("./data/", import.meta.url).pathname;

for (const [name, family] of Object.entries(golden.families)) {
  Deno.test(`${name}: rows of tasks have the tokens and labels that transformers gives`, async () => {
    const tokenizer = tokenizerOf(family);
    const read = async (
      what: keyof typeof models,
      expected: readonly { readonly ids: readonly number[]; readonly labels: readonly number[] }[],
      options: Partial<TokenizeOptions> = {},
    ) => {
      const { rows } = await readTable(`${folder}${what}.parquet`);
      for (const given of [golden.rows[what] as readonly DataRow[], rows]) {
        const data = tokenizeData(given, { ...options, tokenizer, model: models[what] });
        const found = data.examples.map(({ ids, labels }) => ({ ids, labels }));
        assertEquals(found, expected.map(({ ids, labels }) => ({ ids, labels })));
        if ("row" in expected[0]) {
          assertEquals(data.rows, expected.map((one) => (one as unknown as { row: number }).row));
        }
      }
    };
    await read("words", family.words);
    await read("words", family.allPieces, { labelAllTokens: true });
    await read("pairs", family.pairs, { maxLength: 40 });
    await read("questions", family.answers, { maxLength: 40, stride: 5 });
    await read("texts", family.texts, { sourcePrefix: "tell: ", appendEos: false });
  });
}

const tokenizer = tokenizerOf(golden.families.bert);
const refused = (
  model: TokenizeOptions["model"],
  rows: readonly DataRow[],
  options: Partial<TokenizeOptions> = {},
) =>
  assertThrows(
    () => tokenizeData(rows, { tokenizer, model, name: "my.csv", ...options }),
    ValueError,
  );

Deno.test("labels are classes, several or numbers, by name or number, as lists or texts", async () => {
  const read = async (
    rows: readonly DataRow[],
    columns?: { readonly label: string },
  ): Promise<[readonly string[], unknown, unknown]> => {
    const labels = labelsIn({ rows, classNames: {} }, { taskType: "SEQ_CLS", columns });
    const model = await modelFor("SEQ_CLS", labels);
    const { examples } = tokenizeData(rows, { tokenizer, model, columns });
    const [{ labels: batch }] = padExamples(examples, { batchSize: 9 });
    return [labels.labelNames, labels.problemType, batch];
  };
  const rows = (...labels: readonly unknown[]) => labels.map((label) => ({ text: "a", label }));
  const three = ["LABEL_0", "LABEL_1", "LABEL_2"], several = "multi_label_classification";
  assertEquals(await read(rows("spam", "ham", "spam")), [["ham", "spam"], undefined, [1, 0, 1]]);
  assertEquals(await read(rows(2, 0)), [three, undefined, [2, 0]]);
  assertEquals(await read(rows("2", "0")), [three, undefined, [2, 0]]);
  assertEquals(await read(rows("0.5", "-2")), [["LABEL_0"], "regression", [0.5, -2]]);
  assertEquals(await read(rows([0], [1, 2])), [three, several, [[1, 0, 0], [0, 1, 1]]]);
  assertEquals(await read(rows([1, 0, 1], [0, 0, 0])), [three, several, [[1, 0, 1], [0, 0, 0]]]);
  assertEquals(await read(rows('["b"]', '["a", "b"]')), [["a", "b"], several, [[0, 1], [1, 1]]]);
  assertEquals(await read(rows(true, false)), [["false", "true"], undefined, [1, 0]]);
  assertEquals(
    await read([{ sentence: "a", mood: "good" }, { sentence: "b", mood: "bad" }], {
      label: "mood",
    }),
    [["bad", "good"], undefined, [1, 0]],
  );
  const tags = { taskType: "TOKEN_CLS" } as const;
  assertEquals(
    labelsIn({ rows: [{ tokens: "a b", tags: "O B-X" }], classNames: {} }, tags).labelNames,
    ["B-X", "O"],
  );
  const file = await readTable(`${folder}words.parquet`);
  assertEquals(labelsIn(file, tags).labelNames, golden.tags);
  assertEquals(file.rows[0].ner_tags, ["O", "B-PER", "I-PER", "O", "B-LOC"]);
});

Deno.test("rows that cannot be learned are named with what is wrong", () => {
  const good = { text: "a", label: "yes" };
  for (
    const [row, part] of [
      [
        { ...good, label: 2 },
        "Row 2 of my.csv has the label 2, and the model has 2 classes, from 0",
      ],
      [{ ...good, label: "yess" }, '"yess" (nearest: yes), and the model has 2 classes, no, yes'],
      [{ ...good, label: null }, "Row 2 of my.csv has the label null"],
      [{ label: "no" }, 'Row 2 of my.csv needs a text as "text"; found undefined'],
      [{ ...good, text: 5 }, "found 5"],
    ] as const
  ) {
    const error = refused(models.pairs, [good, row]);
    assertEquals(error.code, "DATA_EXAMPLE");
    assert(error.message.includes(part), error.message);
  }
  for (
    const [what, row, part] of [
      ["words", { tokens: ["a", "b"], tags: ["O"] }, '2 words as "tokens" and 1 tags as "tags"'],
      ["words", { tokens: ["a"], tags: [9] }, "the label 9"],
      ["words", { tokens: [1], tags: [0] }, "a list of words"],
      ["questions", { question: "q", context: "abc", answers: "x" }, "needs answers as"],
      ["questions", {
        question: "q",
        context: "abc",
        answers: { text: ["b"], answer_start: [0] },
      }, 'the answer "b" at 0, where its context has "a"'],
      ["questions", {
        question: "q",
        context: "abc",
        answers: { text: ["b"], answer_start: [] },
      }, "1 answers and 0 starts"],
      ["texts", { source: "a", target: 3 }, 'a text as "target"'],
    ] as const
  ) {
    const error = refused(models[what], [row]);
    assertEquals(error.code, "DATA_EXAMPLE");
    assert(error.message.includes(part), error.message);
  }
});

Deno.test("columns that are not there are said, with those that are", () => {
  const missing = refused(models.pairs, [{ body: "a", label: 0 }], { columns: { text: "bdy" } });
  assertEquals(missing.code, "DATA_COLUMNS");
  assert(missing.message.includes('no column "bdy" (nearest: body). The data has body, label.'));
  const unknown = refused(models.pairs, [{ body: "a", kind: 0 }]);
  assertEquals(unknown.code, "DATA_COLUMNS");
  assert(unknown.message.includes("The data has body, kind. Usual are text and text_pair;"));
  const { examples, notes } = tokenizeData([{ body: "a", kind: 0, id: 1, text_pair: "b" }], {
    tokenizer,
    model: models.pairs,
    columns: { text: "body", label: "kind" },
  });
  assertEquals([examples[0].labels, notes.map(({ code }) => code)], [[0], [
    "UNKNOWN_FIELD",
    "UNKNOWN_FIELD",
  ]]);
});

Deno.test("long rows lose their end, become windows, are left out or refused", () => {
  const long = { text: "Hello you ".repeat(40), label: "no" };
  const read = (longRows: "cut" | "drop") =>
    tokenizeData([long, { text: "you", label: "yes" }], {
      tokenizer,
      model: models.pairs,
      maxLength: 16,
      longRows,
    });
  assertEquals(read("cut").examples.map(({ ids }) => ids.length > 14), [true, false]);
  assertEquals([read("drop").rows, read("drop").notes.map(({ message }) => message)], [[1], [
    "Row 1: longer than 16 tokens, left out.",
  ]]);
  const error = refused(models.pairs, [long], { maxLength: 16, longRows: "refuse" });
  assertEquals(error.code, "DATA_LENGTH");
});

Deno.test("files of every kind hold the same rows", async () => {
  await inFolder(async (folder) => {
    const rows = [{ text: 'a, "b"\nc', label: "x" }, { text: "d;e", label: "y" }];
    const quoted = (cell: string) => `"${cell.replaceAll('"', '""')}"`;
    const table = (by: string) =>
      ["text" + by + "label", ...rows.map((row) => Object.values(row).map(quoted).join(by))]
        .join("\r\n");
    const files: Readonly<Record<string, string>> = {
      "a.csv": `\ufeff${table(",")}\n\n`,
      "b.csv": table(";"),
      "c.tsv": table("\t"),
      "d.json": JSON.stringify(rows),
      "e.json": JSON.stringify({ version: 1, data: rows }),
      "f.jsonl": rows.map((row) => JSON.stringify(row)).join("\n"),
      "g.ndjson": rows.map((row) => JSON.stringify(row)).join("\n"),
    };
    for (const [name, text] of Object.entries(files)) {
      await Deno.writeTextFile(`${folder}/${name}`, text);
      assertEquals((await readTable(`${folder}/${name}`)).rows, rows, name);
    }
    const squad = {
      data: [{
        title: "t",
        paragraphs: [{
          context: "c",
          qas: [{ question: "q", id: "1", answers: [{ text: "c", answer_start: 0 }] }],
        }],
      }],
    };
    await Deno.writeTextFile(`${folder}/squad.json`, JSON.stringify(squad));
    assertEquals((await readTable(`${folder}/squad.json`)).rows, [{
      title: "t",
      context: "c",
      question: "q",
      id: "1",
      answers: [{ text: "c", answer_start: 0 }],
    }]);
    await Deno.writeTextFile(`${folder}/empty.csv`, "text,label\na,\n");
    assertEquals((await readTable(`${folder}/empty.csv`)).rows, [{ text: "a", label: null }]);
    const bad: Readonly<Record<string, readonly [string, string, string]>> = {
      "h.csv": ["a,b\n1,2\n3\n", "DATA_LINE", "Line 3 of"],
      "i.csv": ['a,b\n1,"2\n', "DATA_LINE", "cannot be read"],
      "j.csv": ["a,a\n1,2\n", "DATA_LINE", "names a column a twice"],
      "k.json": ["{}", "DATA_FILE", "a list of objects"],
      "l.json": ["[1", "JSON_INVALID", "not valid JSON"],
      "m.parquet": ["PAR1 nothing", "DATA_FILE", "as Parquet"],
      "n.jsonl": ['{"a": 1}\n[2]\n', "DATA_LINE", "Line 2 of"],
      "o.csv": ["text,label\n", "DATASET_EMPTY", "no example"],
    };
    for (const [name, [text, code, part]] of Object.entries(bad)) {
      await Deno.writeTextFile(`${folder}/${name}`, text);
      const error = await assertRejects(() => readTable(`${folder}/${name}`), GraftError, part);
      assertEquals(error.code, code, name);
    }
    await assertRejects(() => readTable(`${folder}/none.csv`), FileError, "does not exist");
  });
});
