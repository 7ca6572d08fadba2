import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { ConfigError } from "../../lib/errors.ts";
import { pythonRegExp, pythonSubstitution } from "../../lib/methods/python-regex.ts";

Deno.test("Python's expressions match whole texts", () => {
  const cases: [string, string, boolean][] = [
    ["q_proj", "q_proj", true],
    ["q_proj", "x.q_proj", false],
    ["q|v", "qv", false],
    [String.raw`.*\.(?P<part>q|v)_proj`, "model.layers.0.self_attn.v_proj", true],
    [String.raw`(?P<a>ab?)\.(?P=a)`, "ab.ab", true],
    [String.raw`(?P<a>ab?)\.(?P=a)`, "ab.a", false],
    [String.raw`layers\.\d{,2}\.x`, "layers.12.x", true],
    [String.raw`layers\.\d{,2}\.x`, "layers.123.x", false],
    ["(?i)Q_PROJ", "q_proj", true],
    ["(?i:Q)_PROJ", "q_proj", false],
    ["(?#which)q", "q", true],
    [String.raw`\Aq\Z`, "q", true],
    ["[]x]+", "]x]", true],
    ["[^]x]+", "ab", true],
    [String.raw`[\].]+`, ".].", true],
    ["(?:(?:.*embed|^m$)|^model$)", "model", true],
    ["(?!.*q_proj).*_proj", "a.v_proj", true],
    ["(?!.*q_proj).*_proj", "a.q_proj", false],
    ["", "", true],
  ];
  for (const [pattern, text, matches] of cases) {
    assertEquals(pythonRegExp(pattern).test(text), matches, `${pattern} on ${text}`);
  }
});

Deno.test("what JavaScript lacks is refused with its name", () => {
  const cases: [string, string][] = [
    ["(?x) q", "verbose"],
    ["(?>a)b", "atomic"],
    ["a++", "possessive"],
    ["(a)?(?(1)b|c)", "conditions"],
    ["a(?i)b", "at the start"],
    [String.raw`\q`, "no meaning"],
    ["(a", "group"],
    ["a\\", "backslash"],
    ["*", "repeat"],
  ];
  for (const [pattern, reason] of cases) {
    const error = assertThrows(() => pythonRegExp(pattern), ConfigError);
    assertStringIncludes(error.message, reason);
    assert(error.message.includes(JSON.stringify(pattern)));
  }
});

Deno.test("loops in loops are matched all the same; what takes too many steps is refused", () => {
  const path = "model.layers.0.self_attn.q_proj";
  assert(pythonRegExp(String.raw`((\w+|\.)+)+q_proj`).test(path));
  assert(!pythonRegExp(String.raw`((\w+|\.)+)+v_proj`).test(path));
  // As written by Unsloth and by LLaMA-Factory.
  const unsloth = pythonRegExp(
    String
      .raw`(?:.*?(?:vision|image|visual|patch|embed|tower).*?(?:layers|h|blocks).*?(?:attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|v_proj)))`,
  );
  assertEquals([path, "model.norm"].map((text) => unsloth.test(text)), [true, false]);
  assert(pythonRegExp("^(?!.*(?:visual|merger)).*(?:q_proj|v_proj).*").test(path));
  const error = assertThrows(
    () => pythonRegExp(String.raw`((\w+|\.)+)+\1v_proj`).test(path),
    ConfigError,
    "steps",
  );
  assertEquals(error.code, "CONFIG_REGEX");
});

Deno.test("matches are replaced as re.subn replaces them", () => {
  const cases: [string, string, string, string, number][] = [
    ["x*", "-", "abxd", "-a-b--d-", 5],
    ["o", "0", "model.o_proj", "m0del.0_pr0j", 3],
    [String.raw`(q|v)_(proj)`, String.raw`\2_\g<1>_\g<0>`, "a.q_proj", "a.proj_q_q_proj", 1],
    [String.raw`(?P<n>\d+)`, String.raw`<\g<n>>`, "layers.10.x", "layers.<10>.x", 1],
    ["^layers", "$&$1", "layers.1", "$&$1.1", 1],
    ["(a)|b", String.raw`[\1]`, "ab", "[a][]", 2],
    ["(?i)LAYERS", "h", "layers.layers", "h.h", 2],
    ["a", String.raw`\\\n\t\.\0\101\x`.replace(String.raw`\x`, ""), "a", "\\\n\t\\.\0A", 1],
    ["nothing", "x", "text", "text", 0],
    ["model(?!_)", "m", "model.model_", "m.model_", 1],
    ["", ".", "ab", ".a.b.", 3],
  ];
  for (const [pattern, replacement, text, replaced, count] of cases) {
    assertEquals(pythonSubstitution(pattern, replacement)(text), { text: replaced, count });
  }
  const refused = [["(", "x"], ["a", String.raw`\1`], ["a", String.raw`\g<n>`], ["a", "\\"], [
    "a",
    String.raw`\q`,
  ], ["a", String.raw`\g<`]];
  for (const [pattern, replacement] of refused) {
    assertThrows(() => pythonSubstitution(pattern, replacement), ConfigError);
  }
});
