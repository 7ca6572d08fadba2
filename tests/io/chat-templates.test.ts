/**
 * Templates against what transformers' Jinja makes of them; see chat-templates.golden.py.
 */
import { assert, assertEquals } from "@std/assert";
import { compile } from "../../lib/io/jinja/render.ts";
import { TemplateError } from "../../lib/io/jinja/values.ts";
import golden from "./chat-templates.golden.json" with { type: "json" };

interface Expected {
  readonly text?: string;
  readonly generated?: readonly (readonly number[])[];
  readonly error?: string;
}

/** Spans of the golden file count characters, ours UTF-16 units. */
function render(template: string, variables: Readonly<Record<string, unknown>>): Expected {
  try {
    const { text, generated } = compile(template).render(variables);
    const spans = generated.map(({ start, end }) =>
      [start, end].map((at) => [...text.slice(0, at)].length)
    );
    return { text, ...(spans.length ? { generated: spans } : {}) };
  } catch (error) {
    assert(error instanceof TemplateError, String((error as Error).stack));
    return { error: error.message };
  }
}

const same = (found: Expected, expected: Expected, what: string) =>
  expected.error
    ? assert(found.error, `${what} should fail (${expected.error}), but gave ${found.text}`)
    : assertEquals(found, expected, what);

Deno.test("features of templates give the text that Python's Jinja gives", () => {
  const given = { add_generation_prompt: false, tools: null, documents: null };
  const variables = { ...given, ...golden.variables, messages: golden.messages };
  for (const { template, ...expected } of golden.features) {
    same(render(template, variables), expected, template);
  }
});

Deno.test("templates in the manner of much used models give the text that Python's Jinja gives", async (t) => {
  for (const [name, template] of Object.entries(golden.templates)) {
    const cases = golden.families[name as keyof typeof golden.families] as Expected[];
    await t.step(name, () => {
      let at = 0;
      for (const messages of golden.chats) {
        for (const options of golden.options) {
          const variables = {
            messages,
            add_generation_prompt: false,
            tools: null,
            documents: null,
            bos_token: "<s>",
            eos_token: "</s>",
            ...options,
          };
          same(render(template, variables), cases[at], `${name}, case ${at}`);
          at++;
        }
      }
    });
  }
});
