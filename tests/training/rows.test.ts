/**
 * Forms of rows: the texts are what transformers makes of the same, see rows.golden.py.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { FileError, TrainingError, ValueError } from "../../lib/errors.ts";
import { byteTokenizerFiles } from "../../lib/io/byte-tokenizer.ts";
import { renderChat } from "../../lib/io/render-chat.ts";
import { createTokenizer } from "../../lib/io/tokenizer.ts";
import { type Example, parseJsonl } from "../../lib/training/examples.ts";
import type { TokenizedExample } from "../../lib/training/row-rule.ts";
import { tokenizeData, tokenizeExamples } from "../../lib/training/tokenize.ts";
import golden from "./rows.golden.json" with { type: "json" };

const tokenizerWith = (chatTemplate?: unknown) => {
  const { tokenizer, config } = byteTokenizerFiles({
    specialTokens: ["<bos>", "<eos>", "<unk>"],
    bosToken: "<bos>",
    eosToken: "<eos>",
  });
  return createTokenizer({
    tokenizer,
    config: { ...config, unk_token: "<unk>", chat_template: chatTemplate },
  });
};
const named = tokenizerWith(
  Object.entries(golden.templates).map(([name, template]) => ({ name, template })),
);
const bare = tokenizerWith();
const MESSAGES = [{ role: "user", content: "hi" }, { role: "assistant", content: "ho" }];

/** What is learned of an example, one text for each run. */
function learned({ ids, labels }: TokenizedExample, tokenizer = named): string[] {
  const runs: number[][] = [];
  labels.forEach((label, i) => {
    if (label === -100) return;
    if (labels[i - 1] === -100 || i === 0) runs.push([]);
    runs.at(-1)!.push(ids[i]);
  });
  return runs.map((run) => tokenizer.decode(run));
}

for (const [name, { row, text, learned: expected }] of Object.entries(golden.cases)) {
  Deno.test(`${name}: the text is what transformers makes of it`, () => {
    const [read] = parseJsonl(JSON.stringify(row), "rows.jsonl");
    const { examples: [example], notes } = tokenizeData([read], { tokenizer: named });
    assertEquals(named.decode(example.ids), text);
    assertEquals(learned(example), expected);
    assertEquals(notes, []);
  });
}

Deno.test("a template that goes through parts gets them, another one refuses what is no text", () => {
  const parts =
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m['content'] | list %}<{{ c.type }}>{% endfor %}{% endif %}{% endfor %}";
  const messages = [{ role: "user", content: [{ type: "text", text: "a" }, { type: "image" }] }];
  assertEquals(renderChat(tokenizerWith(parts), messages), "<text><image>");
  const error = assertThrows(() => renderChat(named, messages), ValueError, 'part of type "image"');
  assertEquals(error.code, "CHAT_TEMPLATE");
});

Deno.test("{% generation %} says what is learned, except of turns that are not to be", () => {
  const tokenizer = tokenizerWith(
    "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}.{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
  );
  const messages = [...MESSAGES.slice(0, 1), { ...MESSAGES[1], weight: 0 }, ...MESSAGES];
  const [example] = tokenizeExamples([{ messages }], { tokenizer });
  assertEquals(tokenizer.decode(example.ids), "u:hia:ho.u:hia:ho.");
  assertEquals(learned(example, tokenizer), ["ho."]);
  assertEquals(example.labels.slice(0, -3), new Array(example.ids.length - 3).fill(-100));
  const blind = tokenizerWith(
    "{% for i in range(messages | length) %}{% generation %}{{ messages[i].content }}{% endgeneration %}{% endfor %}",
  );
  assertThrows(
    () => tokenizeExamples([{ messages }], { tokenizer: blind }),
    ValueError,
    "in a loop",
  );
});

Deno.test("without a chat template an instruction becomes Alpaca's text", () => {
  const row = { instruction: "Add.", input: "1+1", output: "2" };
  const [example] = tokenizeExamples([row], { tokenizer: bare });
  assertEquals(
    bare.decode(example.ids),
    "<bos>Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n" +
      "### Instruction:\nAdd.\n\n### Input:\n1+1\n\n### Response:\n2<eos>",
  );
  assertEquals(learned(example, bare), ["2<eos>"]);
  const short = tokenizeExamples([{ ...row, input: null }], { tokenizer: bare })[0];
  assert(bare.decode(short.ids).includes("task. Write a response"));
  assertThrows(
    () => tokenizeExamples([{ messages: MESSAGES }], { tokenizer: bare }),
    ValueError,
    "Row 1: ",
  );
});

Deno.test("fields that nothing reads, rows of two forms, and empty ones are counted", () => {
  const rows = [
    { text: "a", id: 1 },
    { text: "b", id: 2, source: "web", none: null },
    { text: "c", messages: MESSAGES },
    { text: "d", messages: null },
    { text: "" },
    { prompt: "e", completion: "" },
    { messages: [MESSAGES[0], { role: "assistant", content: "" }] },
  ] as unknown as Example[];
  const { examples, notes } = tokenizeData(rows, { tokenizer: named });
  assertEquals(notes.map(({ code, rows, message }) => [code, rows, message]), [
    ["UNKNOWN_FIELD", [0, 1], 'The field "id" of 2 rows (1, 2) is not read.'],
    ["UNKNOWN_FIELD", [1], 'The field "source" of Row 2 is not read.'],
    ["TWO_FORMS", [2], 'Row 3: of "messages" beside "text" only "messages" is learned.'],
    ["EMPTY", [4, 5, 6], "3 rows (5, 6, 7): what is learned is an empty text."],
  ]);
  assertEquals(learned(examples[2]), ["ho</<unk>>"]);
});

Deno.test("what rows of each form lack is said", () => {
  const bad: readonly (readonly [unknown, string])[] = [
    [{ conversations: 5 }, "no list"],
    [{ conversations: [{ from: "alien", value: "x" }] }, 'from "alien"; known are human'],
    [{ conversations: [{ from: "human", value: "x" }] }, "assistant"],
    [{ instruction: "x" }, '"instruction" and "output"'],
    [{ instruction: "x", output: "y", history: [1] }, '"history"'],
    [{ prompt: [MESSAGES[0]], completion: "x" }, "or as lists of messages"],
    [{ messages: [{ ...MESSAGES[1], weight: 0.5 }] }, '(number 1) with {"weight":0.5}'],
    [{ messages: [{ ...MESSAGES[1], train: "no" }] }, '"train" true or false'],
    [{ messages: MESSAGES, tools: "add" }, '"tools" that are no list'],
    [{ messages: MESSAGES, chat_template_kwargs: [] }, '"chat_template_kwargs" that are no object'],
    [{ messages: null, text: null }, "none of the known fields"],
  ];
  for (const [row, part] of bad) {
    assertThrows(() => parseJsonl(JSON.stringify(row), "my.jsonl"), FileError, part);
  }
});

Deno.test("a template that fails names the row, the message and the expression", () => {
  const tokenizer = tokenizerWith(
    "{% for m in messages %}{{ m.content + m.missing.deep }}{% endfor %}",
  );
  const fine = { text: "x" };
  const error = assertThrows(
    () => tokenizeExamples([fine, { messages: MESSAGES }], { tokenizer }),
    ValueError,
    "Row 2: ",
  );
  assertEquals(error.code, "CHAT_TEMPLATE");
  assert(error.message.includes("at message 1"), error.message);
  assert(error.message.includes("m.missing.deep"), error.message);
  assertEquals([error.details.row, error.details.message], [1, 0]);
  assertThrows(
    () =>
      tokenizeExamples([{ messages: MESSAGES, chat_template_kwargs: { chat_template: "x" } }], {
        tokenizer,
      }),
    ValueError,
    'no chat template called "x"; it has default',
  );
});

Deno.test("long rows are cut, left out or refused, and counted", () => {
  const rows = [{ text: "abcdefgh" }, { prompt: "ab", completion: "c" }, {
    prompt: "abcdef",
    completion: "g",
  }, { prompt: "ab", completion: "cdef" }];
  const options = { tokenizer: bare, maxLength: 5 };
  const seen = (longRows?: "cut" | "drop") => {
    const { examples, notes } = tokenizeData(rows, { ...options, longRows });
    return [examples.map(({ ids }) => bare.decode(ids)), notes.map((n) => [n.message, n.rows])];
  };
  assertEquals(seen(), [
    ["<bos>abcd", "efgh<eos>", "<bos>abc<eos>", "<bos>abcd"],
    [
      ["Row 1: longer than 5 tokens, cut into several examples.", [0]],
      ["2 rows (3, 4): longer than 5 tokens, without what is beyond.", [2, 3]],
      ["Row 3: nothing to learn in the first 5 tokens, left out.", [2]],
    ],
  ]);
  assertEquals(seen("drop"), [
    ["<bos>abc<eos>"],
    [["3 rows (1, 3, 4): longer than 5 tokens, left out.", [0, 2, 3]]],
  ]);
  const error = assertThrows(
    () => tokenizeData(rows, { ...options, longRows: "refuse" }),
    ValueError,
    "3 rows (1, 3, 4): longer than 5 tokens",
  );
  assertEquals(error.code, "DATA_LENGTH");
  const empty = { messages: [{ ...MESSAGES[0] }, { ...MESSAGES[1], weight: 0 }] };
  const { notes } = tokenizeData([empty, { text: "a" }], { tokenizer: named });
  assertEquals(notes.map(({ message }) => message), ["Row 1: nothing to learn, left out."]);
  assertThrows(
    () => tokenizeData([empty, { text: "a" }], { tokenizer: named, longRows: "refuse" }),
    ValueError,
    "nothing to learn",
  );
  assertThrows(() => tokenizeData([empty], { tokenizer: named }), TrainingError, "None of the 1");
});

Deno.test("a chat that becomes several examples is said to", () => {
  const tokenizer = tokenizerWith(
    "{% for m in messages %}<{{ m.role }}>{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
  );
  const { examples, notes } = tokenizeData([{ messages: [...MESSAGES, ...MESSAGES] }], {
    tokenizer,
  });
  assertEquals(examples.map(({ ids }) => tokenizer.decode(ids)), [
    "<user>hi<assistant>ho",
    "<user>hi<assistant><user>hi<assistant>ho",
  ]);
  assertEquals(notes.map(({ code, rows }) => [code, rows]), [["SPLIT_CHAT", [0]]]);
});

Deno.test("an answer that begins otherwise than the generation prompt is learned from there, and said", () => {
  const tokenizer = tokenizerWith(
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}",
  );
  const { examples, notes } = tokenizeData([{ messages: MESSAGES }], { tokenizer });
  assertEquals(tokenizer.decode(examples[0].ids), "<user>hi<assistant>ho");
  assertEquals(learned(examples[0], tokenizer), ["ho"]);
  assertEquals(notes.map(({ code, rows }) => [code, rows]), [["OTHER_PROMPT", [0]]]);
  const counting = tokenizerWith("{{ messages | length }}{{ messages[-1].content }}");
  assertThrows(
    () => tokenizeExamples([{ messages: MESSAGES }], { tokenizer: counting }),
    ValueError,
    "differently once that follows",
  );
});

Deno.test("a token that holds the end of the prompt too is learned, and said", () => {
  const { tokenizer, config } = byteTokenizerFiles();
  const merging = createTokenizer({
    tokenizer: {
      ...tokenizer,
      model: {
        ...(tokenizer.model as Record<string, unknown>),
        vocab: {
          ...(tokenizer.model as { vocab: Record<string, number> }).vocab,
          "bc": 256,
        },
        merges: ["b c"],
      },
    },
    config,
  });
  const { examples, notes } = tokenizeData([{ prompt: "ab", completion: "cd" }], {
    tokenizer: merging,
  });
  assertEquals(examples, [{ ids: [97, 256, 100], labels: [-100, 256, 100] }]);
  assertEquals(notes.map(({ code }) => code), ["TOKEN_ACROSS"]);
});
