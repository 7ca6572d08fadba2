import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { FileError, TrainingError, ValueError } from "../../lib/errors.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { loadTokenizer } from "../../lib/io/tokenizer.ts";
import { packExamples, padExamples } from "../../lib/training/data.ts";
import { parseJsonl, readJsonl } from "../../lib/training/examples.ts";
import type { TokenizedExample } from "../../lib/training/row-rule.ts";
import { tokenizeExamples } from "../../lib/training/tokenize.ts";

const IGNORED = -100;
const [BOS, EOS] = [256, 257];
const bytes = (text: string) => [...new TextEncoder().encode(text)];
const ignored = (n: number) => new Array<number>(n).fill(IGNORED);

const TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}" +
  "{% if add_generation_prompt %}<assistant>{% endif %}";
// Earlier answers lose what comes before "|", as templates do that drop a turn's reasoning.
const FORGETFUL =
  "{% for m in messages %}<{{ m.role }}>{% if loop.last %}{{ m.content }}{% else %}{{ m.content.split('|')[-1] }}{% endif %}<end>{% endfor %}" +
  "{% if add_generation_prompt %}<assistant>{% endif %}";

const tokenizer = (chatTemplate?: string) =>
  loadTokenizer(byteTokenizerFiles({
    specialTokens: ["<bos>", "<eos>"],
    bosToken: "<bos>",
    eosToken: "<eos>",
    chatTemplate,
  }));

Deno.test("a text is learned as a whole, with an end", async () => {
  const [example] = tokenizeExamples([{ text: "hi" }], { tokenizer: await tokenizer() });
  assertEquals(example, { ids: [BOS, ...bytes("hi"), EOS], labels: [BOS, ...bytes("hi"), EOS] });
  const [open] = tokenizeExamples([{ text: "hi" }], {
    tokenizer: await tokenizer(),
    appendEos: false,
  });
  assertEquals(open.ids, [BOS, ...bytes("hi")]);
});

Deno.test("of a prompt and its completion only the completion is learned", async () => {
  const [example] = tokenizeExamples([{ prompt: "2+2=", completion: "4" }], {
    tokenizer: await tokenizer(),
  });
  assertEquals(example.ids, [BOS, ...bytes("2+2=4"), EOS]);
  assertEquals(example.labels, [...ignored(5), ...bytes("4"), EOS]);
});

Deno.test("of a chat the assistant's turns are learned, in one example", async () => {
  const messages = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
    { role: "user", content: "c" },
    { role: "assistant", content: "d" },
  ];
  const examples = tokenizeExamples([{ messages }], { tokenizer: await tokenizer(TEMPLATE) });
  assertEquals(examples.length, 1);
  const { ids, labels } = examples[0];
  assertEquals(
    ids,
    bytes("<user>a<end><assistant>b<end><user>c<end><assistant>d<end>"),
  );
  const learned = ids.filter((_, i) => labels[i] !== IGNORED);
  assertEquals(learned, bytes("b<end>d<end>"));
  labels.forEach((label, i) => assert(label === IGNORED || label === ids[i]));
});

Deno.test("a chat whose earlier turns change later becomes one example for each answer", async () => {
  const messages = [
    { role: "user", content: "a" },
    { role: "assistant", content: "think|b" },
    { role: "user", content: "c" },
    { role: "assistant", content: "more|d" },
  ];
  const examples = tokenizeExamples([{ messages }], { tokenizer: await tokenizer(FORGETFUL) });
  const shown = examples.map(({ ids, labels }) => [
    String.fromCharCode(...ids.filter((_, i) => labels[i] === IGNORED)),
    String.fromCharCode(...ids.filter((_, i) => labels[i] !== IGNORED)),
  ]);
  assertEquals(shown, [
    ["<user>a<end><assistant>", "think|b<end>"],
    ["<user>a<end><assistant>b<end><user>c<end><assistant>", "more|d<end>"],
  ]);
});

Deno.test("long texts are cut into several examples, other kinds lose their end", async () => {
  const options = { tokenizer: await tokenizer(), maxLength: 4 };
  const pieces = tokenizeExamples([{ text: "abcdefgh" }], options);
  assertEquals(pieces.map((p) => p.ids.length), [4, 4, 2]);
  assertEquals(pieces.flatMap((p) => p.ids), [BOS, ...bytes("abcdefgh"), EOS]);
  const [cut] = tokenizeExamples([{ prompt: "ab", completion: "cdef" }], options);
  assertEquals(cut, { ids: [BOS, ...bytes("abc")], labels: [...ignored(3), ...bytes("c")] });
  const error = assertThrows(
    () => tokenizeExamples([{ prompt: "abcdef", completion: "g" }], options),
    TrainingError,
  );
  assertEquals(error.code, "DATASET_EMPTY");
  assertThrows(() => tokenizeExamples([], options), TrainingError, "no example");
  assertThrows(
    () => tokenizeExamples([{ text: "a" }], { ...options, maxLength: 1 }),
    ValueError,
    "maxLength",
  );
});

Deno.test("padded batches keep ids, labels and mask apart", () => {
  const examples = [
    { ids: [1, 2, 3], labels: [IGNORED, 2, 3] },
    { ids: [4, 5, 6, 7, 8], labels: [4, 5, 6, 7, 8] },
    { ids: [9, 10], labels: [9, 10] },
  ];
  const [first, second] = padExamples(examples, { batchSize: 2, multipleOf: 4, padId: 99 });
  assertEquals(first, {
    inputIds: [[1, 2, 3, 99, 99, 99, 99, 99], [4, 5, 6, 7, 8, 99, 99, 99]],
    attentionMask: [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]],
    labels: [[IGNORED, 2, 3, ...ignored(5)], [4, 5, 6, 7, 8, ...ignored(3)]],
  });
  assertEquals(second.inputIds, [[9, 10, 99, 99]]);
});

Deno.test("labels of rows, decoders, spans and none are padded as what they are of", () => {
  const common = { ids: [1, 2], tokenTypeIds: [0, 1] };
  const pad = (...examples: readonly Partial<TokenizedExample>[]) =>
    padExamples(examples.map((one) => ({ ...common, labels: [], ...one })), {
      batchSize: 2,
      multipleOf: 2,
    });
  const inputs = {
    inputIds: [[1, 2], [1, 2]],
    tokenTypeIds: [[0, 1], [0, 1]],
    attentionMask: [[1, 1], [1, 1]],
  };
  const row = { labelsOf: "row" } as const, decoder = { labelsOf: "decoder" } as const;
  assertEquals(pad({ ...row, labels: [3] }, { ...row, labels: [0] }), [{
    ...inputs,
    labels: [3, 0],
  }]);
  assertEquals(pad({ ...row, labels: [1, 0] }, { ...row, labels: [0, 1] }), [{
    ...inputs,
    labels: [[1, 0], [0, 1]],
  }]);
  assertEquals(pad({ ...decoder, labels: [5, 6, 7] }, { ...decoder, labels: [8] }), [{
    ...inputs,
    labels: [[5, 6, 7, IGNORED], [8, IGNORED, IGNORED, IGNORED]],
  }]);
  const span = { labelsOf: "span", labels: [0, 1] } as const;
  assertEquals(pad(span, span), [{ ...inputs, startPositions: [0, 0], endPositions: [1, 1] }]);
  // Anchors, then what belongs to them; a pair alone joins the batch before.
  const pair = (id: number): Partial<TokenizedExample> => ({
    ids: [id],
    tokenTypeIds: undefined,
    labelsOf: "none",
    others: [{ ids: [id + 10] }],
  });
  assertEquals(pad(pair(1), pair(2), pair(3)).map(({ inputIds, labels }) => [inputIds, labels]), [[
    [[1, 0], [2, 0], [3, 0], [11, 0], [12, 0], [13, 0]],
    undefined,
  ]]);
  const packs = assertThrows(
    () => packExamples([{ ...common, ...span }], { batchSize: 1, length: 4 }),
    ValueError,
  );
  assertEquals(packs.code, "DATA_OPTION");
});

Deno.test("packed rows keep examples whole and apart", () => {
  const examples = [[1, 2, 3, 4], [5, 6, 7], [8, 9], [10, 11, 12]]
    .map((ids) => ({ ids, labels: ids }));
  const [batch] = packExamples(examples, { batchSize: 4, length: 6, padId: 99 });
  assertEquals(batch, {
    inputIds: [[1, 2, 3, 4, 8, 9], [5, 6, 7, 10, 11, 12]],
    labels: [[IGNORED, 2, 3, 4, IGNORED, 9], [IGNORED, 6, 7, IGNORED, 11, 12]],
    segments: [[1, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 2]],
    positionIds: [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]],
  });
  const [padded] = packExamples(examples.slice(0, 1), { batchSize: 1, length: 6, padId: 99 });
  assertEquals(padded, {
    inputIds: [[1, 2, 3, 4, 99, 99]],
    labels: [[IGNORED, 2, 3, 4, IGNORED, IGNORED]],
    segments: [[1, 1, 1, 1, 0, 0]],
    positionIds: [[0, 1, 2, 3, 0, 0]],
  });
  const error = assertThrows(
    () => packExamples(examples, { batchSize: 1, length: 3 }),
    ValueError,
  );
  assertEquals(error.code, "DATA_LENGTH");
});

Deno.test("a seed decides the order, and each epoch has its own", () => {
  const examples = Array.from({ length: 12 }, (_, i) => ({ ids: [i, i], labels: [i, i] }));
  const order = (options: { seed?: number; epoch?: number }) =>
    padExamples(examples, { batchSize: 1, ...options })
      .map((batch) => (batch.inputIds as number[][])[0][0]);
  assertEquals(order({}), examples.map((_, i) => i));
  assertEquals(order({ seed: 3 }), order({ seed: 3, epoch: 0 }));
  assertNotEquals(order({ seed: 3 }), order({ seed: 3, epoch: 1 }));
  assertNotEquals(order({ seed: 3 }), order({ seed: 4 }));
  assertEquals(order({ seed: 3 }).toSorted((a, b) => a - b), order({}));
});

Deno.test("JSON lines: each bad line is named with file and number", async () => {
  assertEquals(parseJsonl('{"text":"a"}\r\n\n{"prompt":"b","completion":"c","id":7}\n', "x"), [
    { text: "a" },
    // deno-lint-ignore no-explicit-any -- further fields stay, and nothing reads them
    { prompt: "b", completion: "c", id: 7 } as any,
  ]);
  const good = '{"text":"a"}';
  const bad: readonly (readonly [string, string])[] = [
    ['{"text": "a"', "not valid JSON"],
    ["[1]", "no JSON object"],
    ['{"text": 5}', "no string"],
    ['{"body": "x"}', "found body"],
    ['{"prompt": "x"}', 'both "prompt" and "completion"'],
    ['{"messages": 5}', "no list"],
    ['{"messages": []}', "empty"],
    ['{"messages": [{"role": "assistant"}]}', 'without "content"'],
    ['{"messages": [{"content": "x"}]}', "role"],
    ['{"messages": [{"role": "user", "content": "x"}]}', "assistant"],
  ];
  for (const [line, part] of bad) {
    const error = assertThrows(() => parseJsonl(`${good}\n${line}`, "my.jsonl"), FileError, part);
    assertEquals([error.code, error.details.line], ["DATA_LINE", 2]);
    assert(error.message.startsWith("Line 2 of my.jsonl "), error.message);
  }
  assertThrows(() => parseJsonl("\n \n", "my.jsonl"), TrainingError, "my.jsonl holds no example");
  await assertRejects(() => readJsonl("/nowhere/data.jsonl"), FileError, "does not exist");
});
