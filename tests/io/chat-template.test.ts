import { assert, assertEquals, assertThrows } from "@std/assert";
import { ValueError } from "../../lib/errors.ts";
import { applyChatTemplate, type ChatMessage } from "../../lib/io/chat-template.ts";

// The template of SmolLM2-135M-Instruct.
const CHATML =
  "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const SYSTEM =
  "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n";
const chat: ChatMessage[] = [
  { role: "user", content: `Hi {{x}} <b>"é"</b> 👋` },
  { role: "assistant", content: "Hello " },
];

Deno.test("a conversation is rendered as transformers does", () => {
  const user = `<|im_start|>user\nHi {{x}} <b>"é"</b> 👋<|im_end|>\n`;
  assertEquals(
    applyChatTemplate(CHATML, chat),
    `${SYSTEM}${user}<|im_start|>assistant\nHello <|im_end|>\n`,
  );
  assertEquals(
    applyChatTemplate(CHATML, chat.slice(0, 1), { addGenerationPrompt: true }),
    `${SYSTEM}${user}<|im_start|>assistant\n`,
  );
});

Deno.test("the last message can be left open", () => {
  const open = applyChatTemplate(CHATML, chat, { continueFinalMessage: true });
  assertEquals(open.slice(-"assistant\nHello ".length), "assistant\nHello ");
  const trimming = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
  assertEquals(
    applyChatTemplate(trimming, chat.slice(1), { continueFinalMessage: true }),
    "[Hello",
  );
  assertThrows(
    () =>
      applyChatTemplate(CHATML, chat, { continueFinalMessage: true, addGenerationPrompt: true }),
    ValueError,
    "one of them",
  );
  assertThrows(
    () => applyChatTemplate("nothing", chat, { continueFinalMessage: true }),
    ValueError,
    "does not show",
  );
  assertThrows(() => applyChatTemplate(CHATML, [], { continueFinalMessage: true }), ValueError);
});

Deno.test("templates see tokens, tools, documents and variables, and what is not given is not defined", () => {
  const template = "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}" +
    "{% if documents %}{{ documents[0].text }}{% endif %}" +
    "{% if enable_thinking is defined %}{{ enable_thinking }}{% else %}-{% endif %}" +
    "{% for m in messages %}{{ m.extra.deep }}{% endfor %}{{ eos_token }}";
  const messages = [{ role: "user", content: "x", extra: { deep: [1, 2] } }];
  assertEquals(
    applyChatTemplate(template, messages, {
      bosToken: "<s>",
      eosToken: "</s>",
      tools: [{ name: "f" }],
      documents: [{ text: "doc" }],
      variables: { enable_thinking: false },
    }),
    `<s>[{"name": "f"}]docFalse[1, 2]</s>`,
  );
  assertEquals(applyChatTemplate(template, []), "-");
});

Deno.test("a template that refuses, or is none, is an error that says why", () => {
  const strict =
    "{% if messages[0].role != 'user' %}{{ raise_exception('Begin with the user') }}{% endif %}";
  assertThrows(
    () => applyChatTemplate(strict, [{ role: "tool" }]),
    ValueError,
    "(roles tool): Begin with the user",
  );
  assertThrows(() => applyChatTemplate("{% if %}", chat), ValueError, "chat template");
});

Deno.test("a template that fails names the message and the expression", () => {
  const template = "{% for m in messages %}{{ m.content.strip() + m.tag }}{% endfor %}";
  const error = assertThrows(
    () => applyChatTemplate(template, [{ role: "user", content: "a", tag: "b" }, ...chat]),
    ValueError,
    "at message 2: 'dict object' has no attribute 'tag'. It happened in m.content.strip() + m.tag",
  );
  assertEquals([error.details.message, error.details.expression], [
    1,
    "m.content.strip() + m.tag",
  ]);
});

Deno.test("a template has a budget of steps, depth and text", () => {
  for (
    const template of [
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{{ 'x' * 1000000000 }}",
      "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
      "{{ " + "(".repeat(100_000) + "1" + ")".repeat(100_000) + " }}",
      "{{ 9 ** 9 ** 9 ** 9 }}",
    ]
  ) {
    const start = performance.now();
    assertThrows(() => applyChatTemplate(template, chat), ValueError, "chat template");
    assert(performance.now() - start < 6_000);
  }
});
