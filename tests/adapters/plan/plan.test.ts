import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { getPeftModel } from "../../../lib/adapters/inject.ts";
import { adaptedPaths } from "../../../lib/adapters/parts.ts";
import { endingsOf } from "../../../lib/adapters/plan/match-modules.ts";
import { planAdapter } from "../../../lib/adapters/plan/plan.ts";
import { condenseTargets } from "../../../lib/adapters/plan/resolve-config.ts";
import { ConfigError, GraftError, TargetError } from "../../../lib/errors.ts";
import { readJsonFile } from "../../../lib/io/json.ts";
import { loraConfig } from "../../../lib/methods/lora/lora-config.ts";
import { golden, goldenBase, peftLora } from "../bases.ts";
import cases from "../../golden/cases.json" with { type: "json" };
import refused from "../../golden/refused.json" with { type: "json" };

Deno.test("planAdapter counts what PEFT counts", async () => {
  for (const { name, kind, adapters } of cases.lora) {
    if (adapters.length) continue;
    const record = await readJsonFile(`${golden}lora/${name}/case.json`);
    const plan = planAdapter(await goldenBase(kind), peftLora(record.config as never));
    assertEquals(plan.problems, [], name);
    // PEFT counts leaves that share their storage twice.
    if (record.losses_as_one_parameter) {
      assert(plan.trainableParameters < (record.trainable_parameters as number), name);
    } else {
      assertEquals(plan.trainableParameters, record.trainable_parameters, name);
    }
    assertEquals(plan.bytes, 4 * plan.trainableParameters);
  }
});

Deno.test("planAdapter reports patterns, layers and sizes", async () => {
  const plan = planAdapter(
    await goldenBase("llama"),
    loraConfig({
      r: 3,
      targetModules: ["q_proj", "model.layers.1.mlp.down_proj"],
      layersToTransform: [0],
      excludeModules: ["k_proj", "nowhere"],
      modulesToSave: ["lm_head"],
    }),
  );
  assertEquals(plan.problems, []);
  assertEquals(plan.sites.map(({ site, layer, patterns }) => [site.path, layer, patterns]), [
    ["model.layers.0.self_attn.q_proj", 0, ["q_proj"]],
    ["model.layers.1.mlp.down_proj", 1, ["model.layers.1.mlp.down_proj"]],
  ]);
  assertEquals(plan.sites[1].leaves, { lora_A: [3, 56], lora_B: [32, 3] });
  assertEquals([...plan.layers], [[0, 1], [1, 1]]);
  const [q, down, k, nowhere, head] = plan.patterns;
  assertEquals(q.modules.length, 2);
  assertEquals(q.leftOut, ["model.layers.1.self_attn.q_proj"]);
  assertEquals(down.leftOut, []);
  assertEquals([k.field, k.modules.length], ["excludeModules", 2]);
  assertEquals([nowhere.modules, head.modules], [[], ["lm_head"]]);
  assertStringIncludes(plan.notes.join(), "nowhere");
  assertEquals([...plan.parameters], [["lm_head.weight", "lm_head.weight"]]);
  assertEquals(plan.trainableParameters, 3 * (32 + 32) + 3 * (56 + 32) + 61 * 32);
  assertEquals(plan.baseParameters, 20960);
});

Deno.test("planAdapter reports problems and getPeftModel throws them", async () => {
  const base = await goldenBase("llama");
  const check = (config: Parameters<typeof loraConfig>[0], code: string, ...texts: string[]) => {
    const complete = loraConfig(config);
    const plan = planAdapter(base, complete);
    assert(plan.problems.some((p) => p.code === code), `${code} in ${plan.problems}`);
    const error = assertThrows(() => getPeftModel(base, complete), TargetError);
    for (const text of texts) assertStringIncludes(error.message, text);
  };
  check({ targetModules: ["q_proj", "v_pro"] }, "TARGET_NOT_FOUND", '"v_pro"', "v_proj");
  check({ targetModules: ["layers.0.self_attn.q_prj"] }, "TARGET_NOT_FOUND", "q_proj");
  check({ targetModules: "q_proj" }, "TARGET_NOT_FOUND", "regular expression");
  check({ targetModules: ["norm"] }, "TARGET_KIND", "model.norm", '"norm"');
  check({ targetModules: ["q_proj", "self_attn"] }, "TARGET_KIND", "container", "self_attn");
  check({ targetModules: ".*layers.0.*" }, "TARGET_KIND", "model.layers.0,");
  check(
    { targetModules: ["q_proj"], layersToTransform: [0, 7] },
    "LAYER_NOT_FOUND",
    "7",
    "0 to 1",
  );
  check(
    { targetModules: ["q_proj"], layersToTransform: 0, layersPattern: "blocks" },
    "LAYER_NOT_FOUND",
    "blocks",
  );
  check({ targetModules: ["q_proj"], excludeModules: ".*q_proj" }, "TARGETS_EMPTY", "left out");
  check({ targetModules: [] }, "TARGETS_EMPTY", "[]");
  check(
    { targetModules: ["q_proj"], modulesToSave: ["lm_heads"] },
    "MODULES_TO_SAVE_NOT_FOUND",
    "lm_head",
  );
  check(
    { targetModules: ["q_proj"], modulesToSave: ["proj"] },
    "TARGET_SAVED",
    "q_proj",
  );
  check(
    { targetModules: ["nope", "q_prooj"] },
    "TARGET_NOT_FOUND",
    '"nope"',
    '"q_prooj"',
  );
});

Deno.test("an empty excludeModules leaves out nothing", async () => {
  const base = await goldenBase("llama");
  const { sites, patterns } = planAdapter(base, loraConfig({ r: 2, excludeModules: "" }));
  assertEquals([sites.length, patterns.map(({ field }) => field)], [4, [
    "targetModules",
    "targetModules",
  ]]);
});

Deno.test("allowUnmatched tolerates names that are not there", async () => {
  const base = await goldenBase("llama");
  const config = loraConfig({ targetModules: ["q_proj", "c_attn"] });
  const model = getPeftModel(base, config, { allowUnmatched: true });
  assertEquals(adaptedPaths(model.adapters.get("default")!).length, 2);
  const nothing = loraConfig({ targetModules: ["c_attn"] });
  assertThrows(() => getPeftModel(base, nothing, { allowUnmatched: true }), TargetError);
});

Deno.test("what PEFT refuses is refused", async () => {
  // These only fail in PEFT because of how it is made.
  const accepted = new Set(["olora_conv1d"]);
  for (const [name, { kind, config }] of Object.entries(refused)) {
    const base = await goldenBase(kind);
    const make = () => getPeftModel(base, peftLora(config));
    if (accepted.has(name)) make();
    else assertThrows(make, GraftError, undefined, name);
  }
});

Deno.test("a model without usual targets needs some", async () => {
  const base = await goldenBase("llama");
  const other = { ...base, config: { ...base.config, model_type: "unheard_of" } };
  const error = assertThrows(() => planAdapter(other, loraConfig()), ConfigError);
  assertEquals(error.code, "CONFIG_NO_TARGETS");
});

Deno.test("long lists of targets are condensed as PEFT does", () => {
  const layers = Array.from({ length: 12 }, (_, i) => `model.layers.${i}`);
  const linear = layers.flatMap((at) => [
    ...["q", "k", "v", "o"].map((x) => `${at}.self_attn.${x}_proj`),
    ...["gate", "up", "down"].map((x) => `${at}.mlp.${x}_proj`),
  ]);
  const modules = new Map(
    ["model", "lm_head", ...layers, ...linear].map((path) => [path, { endings: endingsOf(path) }]),
  );
  const sorted = (targets: readonly string[]) => [...condenseTargets(targets, modules)].sort();
  assertEquals(
    sorted(linear),
    ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
  );
  const missing = "model.layers.3.self_attn.q_proj";
  assertEquals(sorted(linear.filter((path) => path !== missing)), [
    ...[0, 1, 10, 11, 2, 4, 5, 6, 7, 8, 9].map((i) => `${i}.self_attn.q_proj`),
    ...["down_proj", "gate_proj", "k_proj", "o_proj", "up_proj", "v_proj"],
  ]);
});

Deno.test("a plan says what each entry names in which layer, and what names nothing", async () => {
  const base = await goldenBase("llama");
  const plan = planAdapter(
    base,
    loraConfig({
      targetModules: ["q_proj", "lm_head", "w_proj"],
      rankPattern: { "q_prj": 3, "1.self_attn.q_proj": 2 },
      excludeModules: ["vproj"],
    }),
  );
  const of = (pattern: string) => plan.patterns.find((p) => p.pattern === pattern)!;
  assertEquals(
    [...of("q_proj").layers],
    [0, 1].map((layer) => [
      layer,
      [`model.layers.${layer}.self_attn.q_proj`],
    ]),
  );
  assertEquals([...of("lm_head").layers], [[null, ["lm_head"]]]);
  assertEquals(of("1.self_attn.q_proj").modules, ["model.layers.1.self_attn.q_proj"]);
  assertEquals(
    plan.unmatched.map(({ field, pattern, nearest }) => [field, pattern, nearest[0]]),
    [
      ["targetModules", "w_proj", "k_proj"],
      ["excludeModules", "vproj", "v_proj"],
      ["rankPattern", "q_prj", "q_proj"],
    ],
  );
  assertEquals(plan.notes.length, 2);
  const expression = planAdapter(base, loraConfig({ targetModules: ".*\\.(q|v)_prj$" }));
  assert(expression.unmatched[0].nearest.length > 0, "a regular expression has near names, too");
});
